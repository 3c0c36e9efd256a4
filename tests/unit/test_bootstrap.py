"""The Python half of bootstrap.sh: keys, progress, failures; and that both halves read the same list of versions."""

import stat
import subprocess
from pathlib import Path

import pytest
import yaml
from vcore import bootstrap
from vcore.base import progress
from vcore.base.errors import VcoreError
from vcore.base.paths import Paths

CHECKOUT = Path(__file__).parents[2]
SERVICES = CHECKOUT / "salt" / "states" / "services"


@pytest.fixture
def paths(tmp_path):
    return Paths(checkout=CHECKOUT, configuration=tmp_path / "configuration", state=tmp_path / "state")


# --- keys --------------------------------------------------------------------------------------------------------


def test_the_minion_is_accepted_by_its_own_key_before_anything_starts(tmp_path):
    finger = bootstrap.keys("head", tmp_path)
    own = (tmp_path / "minion" / "minion.pub").read_bytes()
    assert (tmp_path / "master" / "minions" / "head").read_bytes() == own
    assert finger.count(":") == 31
    assert bootstrap.keys("head", tmp_path) == finger, "a second run makes other keys"
    assert stat.S_IMODE((tmp_path / "minion" / "minion.pem").stat().st_mode) == 0o400
    assert stat.S_IMODE((tmp_path / "master").stat().st_mode) == 0o700


def test_half_a_pair_of_an_interrupted_run_is_made_anew(tmp_path):
    bootstrap.keys("head", tmp_path)
    (tmp_path / "minion" / "minion.pub").unlink()
    (tmp_path / "master" / "minions" / "head").unlink()
    bootstrap.keys("head", tmp_path)
    accepted = (tmp_path / "master" / "minions" / "head").read_bytes()
    assert accepted == (tmp_path / "minion" / "minion.pub").read_bytes()


def test_a_minion_known_by_another_key_is_refused_with_the_remedy(tmp_path):
    bootstrap.keys("head", tmp_path)
    other = tmp_path / "other"
    bootstrap.keys("head", other)
    (tmp_path / "master" / "minions" / "head").write_bytes((other / "minion" / "minion.pub").read_bytes())
    with pytest.raises(VcoreError, match="salt-key -d head"):
        bootstrap.keys("head", tmp_path)


# --- progress ----------------------------------------------------------------------------------------------------


def test_a_follower_sees_only_what_is_new(paths):
    progress.report(paths, "image ldap", "old")
    follower = bootstrap.Follower(paths)
    assert list(follower.lines()) == []
    progress.report(paths, "image ldap", "step 1 of 3")
    assert list(follower.lines()) == ["image ldap: step 1 of 3"]
    with paths.progress.open("a") as stream:
        stream.write('{"step": "half')
    assert list(follower.lines()) == []


def test_a_follower_survives_that_the_file_begins_anew(paths):
    progress.report(paths, "image ldap", "x" * 400)
    follower = bootstrap.Follower(paths)
    paths.progress.unlink()
    assert list(follower.lines()) == []
    progress.report(paths, "image ldap", "again")
    assert list(follower.lines()) == ["image ldap: again"]


def test_progress_does_not_grow_without_end(paths, monkeypatch):
    monkeypatch.setattr(progress, "MAXIMUM_SIZE", 1000)
    for number in range(100):
        progress.report(paths, "step", f"line {number}")
    assert paths.progress.stat().st_size < 1200


# --- what went wrong ---------------------------------------------------------------------------------------------


def test_failures_leave_out_what_only_followed_from_others():
    states = {
        "a": {"__id__": "The image is built", "result": False, "comment": "no space left", "__run_num__": 1},
        "b": {"__id__": "It runs", "result": False, "comment": "One or more requisite failed: a", "__run_num__": 2},
        "c": {"__id__": "Fine", "result": True, "comment": "", "__run_num__": 0},
    }
    assert bootstrap.failures(states) == ["The image is built: no space left"]


def test_a_run_that_could_not_start_is_told_in_its_own_words():
    assert bootstrap.failures(["site.sls:2: vcore.x: unknown key"]) == ["site.sls:2: vcore.x: unknown key"]


# --- the command -------------------------------------------------------------------------------------------------


def test_the_site_is_checked_from_the_shell(tmp_path, capsys):
    good, bad = tmp_path / "good.sls", tmp_path / "bad.sls"
    good.write_text("vcore: {nodes: {one: {roles: [head]}}, base_directory: /big}")
    bad.write_text("vcore: {nodez: {}}")
    arguments = ["--checkout", str(CHECKOUT)]
    assert bootstrap.main([*arguments, "validate", str(good)]) == 0
    assert bootstrap.main([*arguments, "data", str(good)]) == 0
    folders = [f"/big/{path.parent.name}" for path in sorted(SERVICES.glob("*/service.yaml"))]
    assert capsys.readouterr().out.split() == ["one", *folders]
    assert bootstrap.main([*arguments, "validate", str(bad)]) == 1
    assert "bad.sls:1: vcore.nodez: unknown key; did you mean nodes?" in capsys.readouterr().err


@pytest.mark.parametrize("section", ["python", "constraints", "tests", "docker"])
def test_the_shell_reads_the_versions_that_yaml_has(section):
    wanted = yaml.safe_load((CHECKOUT / "versions.yaml").read_text())[section]
    script = f". etc/versions.sh; versions versions.yaml {section}"
    done = subprocess.run(["bash", "-c", script], cwd=CHECKOUT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [f"{name}=={version}" for name, version in wanted.items()]
    assert all(isinstance(version, str) for version in wanted.values()), "a version that YAML takes for a number"


def test_help_names_every_option():
    done = subprocess.run([CHECKOUT / "bootstrap.sh", "--help"], capture_output=True, text=True, check=True)
    for option in ("--site", "--id", "--dry-run", "--uninstall", "--purge", "--yes"):
        assert option in done.stdout


@pytest.mark.parametrize("arguments", [["--nonsense"], ["--purge"], ["--site", "/nowhere"], ["--id", "Bad_Name"]])
def test_wrong_usage_is_refused_before_anything(arguments):
    done = subprocess.run([CHECKOUT / "bootstrap.sh", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stdout == ""

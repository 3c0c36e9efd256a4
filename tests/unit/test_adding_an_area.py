"""docs/adding-an-area.md is true: its files, in a copy of the checkout, are an area like all others.

A copy has its own brain and its own modules of Salt, so everything in it is asked in processes of its own.
"""

import ast
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support import pages

CHECKOUT = Path(__file__).parents[2]
PAGE = CHECKOUT / "docs" / "adding-an-area.md"
BRAIN = CHECKOUT / "salt" / "_utils" / "vcore"
GENERATED = {"docs/settings.md", "salt/_utils/vcore/locale/vcore.pot"}
#: The site of the page, and the two lines that it shows for two mistakes in it.
(SITE,) = (block for block in pages.blocks(PAGE, "yaml") if block.startswith("vcore:"))
(SENTENCES,) = (block.splitlines() for block in pages.blocks(PAGE, "text") if block.startswith("site.sls:"))
MISTAKES = [("until: 2026-12-24", "until: Christmas"), ("enabled: true", "enabled: false")]
#: What is asked of the copy, once, since Salt takes a while to load: its answers, as JSON.
ASK = """
import json, sys
from pathlib import Path
import salt.client, salt.config, salt.output
from support import sites
from vcore.kernel.documents import SiteError

folder, site, mistakes = Path(sys.argv[1]), sys.argv[2], json.loads(sys.argv[3])

def refused(text):
    try:
        sites.load(folder / "mistake", text)
    except SiteError as error:
        return str(error)

answers = {"refused": [refused(site.replace(*mistake)) for mistake in mistakes], "states": {}}
for minion, roles in (("head", ["roles.head", "roles.node"]), ("compute-1", ["roles.node"])):
    pillar = answers[minion] = sites.pillar(folder / "site", site, minion)
    (folder / "top.sls").write_text("base: {'*': [vcore]}")
    (folder / "vcore.sls").write_text("#!json\\n" + json.dumps({"vcore": pillar}))
    options = salt.config.minion_config(None)
    options.update(
        id=minion, file_client="local", root_dir=str(folder), cachedir=str(folder / minion),
        pki_dir=str(folder / "pki"), extension_modules=str(folder / "extension_modules"), log_file="/dev/null",
        file_roots={"base": [str(sites.CHECKOUT / "salt" / "states"), str(sites.CHECKOUT / "salt")]},
        pillar_roots={"base": [str(folder)]}, module_dirs=[str(sites.CHECKOUT / "salt")],
        states_dirs=[str(sites.CHECKOUT / "salt" / "_states")], enable_fqdns_grains=False, enable_gpu_grains=False,
        virtual_core={"checkout": str(sites.CHECKOUT), "configuration": str(folder), "state": str(folder)},
    )
    caller = salt.client.Caller(mopts=options)
    answers["states"][minion] = {name: caller.cmd("state.show_low_sls", name) for name in roles}
    if minion == "head":
        functions = caller.sminion.functions
        answers["functions"] = [name for name in functions if name.startswith("vcore.")]
        answers["shown"] = {}
        for name in ("vcore.welcome_show", "vcore.status"):
            returned = {"local": caller.cmd(name)}
            options["color"] = False
            answers["shown"][name] = salt.output.out_format(returned, functions[name].__outputter__, options)
            answers[name] = returned["local"]
print(json.dumps(answers))
"""


def listed(folder):
    """The files of the checkout, without what git ignores, by their paths in it."""
    command = ["git", "-c", "safe.directory=*", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout.split("\0")
    return [name for name in names if name and os.path.lexists(folder / name)]


def state(path):
    """What git keeps of a file: its content or target, and whether it is executable."""
    if path.is_symlink():
        return str(path.readlink())
    return hashlib.sha256(path.read_bytes()).hexdigest(), os.access(path, os.X_OK)


class Copy:
    """A copy of the checkout, with the files of the page in it."""

    def __init__(self, folder):
        self.folder = folder
        self.names = listed(CHECKOUT)
        for name in self.names:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(CHECKOUT / name, folder / name, follow_symlinks=False)
        subprocess.run(["git", "init", "--quiet"], cwd=folder, check=True)
        self.added = {str(path.relative_to(folder)) for path in pages.write(PAGE, folder)}

    def changed(self):
        """The files of the checkout that differ in the copy."""
        return {name for name in self.names if state(CHECKOUT / name) != state(self.folder / name)}

    def python(self, *arguments):
        """Run Python in the copy, on its brain; return what it says."""
        paths = os.pathsep.join(str(self.folder / name) for name in ("salt/_utils", "tests"))
        environment = {**os.environ, "PYTHONPATH": paths, "DOCKER_HOST": "unix:///nonexistent.sock"}
        for name in [name for name in environment if name.startswith(("PYTEST_", "VCORE_"))]:
            del environment[name]
        done = subprocess.run(
            [sys.executable, *arguments], cwd=self.folder, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-6000:]
        return done.stdout


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    return Copy(tmp_path_factory.mktemp("copy"))


@pytest.fixture(scope="module")
def answers(copy, tmp_path_factory):
    """What the copy answers to :data:`ASK`."""
    folder = tmp_path_factory.mktemp("core")
    return json.loads(copy.python("-c", ASK, str(folder), SITE, json.dumps(MISTAKES)))


def test_no_file_changes_but_the_generated_reference(copy):
    assert len(copy.added) > 12
    assert not copy.added & set(copy.names), "the page has a file that is there already"
    assert copy.changed() == set()
    copy.python("-m", "vcore.reference")
    assert copy.changed() == GENERATED
    settings = (copy.folder / "docs" / "settings.md").read_text()
    assert "\n## `vcore.welcome.announcement`\n" in settings and "\n### welcome: Welcome page\n" in settings


def test_it_keeps_the_rules_of_the_house_and_its_own_tests_pass(copy):
    tests = ["tests/unit/test_house.py", "tests/unit/test_conventions.py", "tests/unit/welcome"]
    said = copy.python("-m", "pytest", "-q", "-p", "no:cacheprovider", *tests)
    assert re.search(r"\d+ passed", said) and "skipped" not in said, said


def test_its_types_and_style_are_right(copy):
    copy.python("-m", "mypy", "--follow-imports=silent", "-p", "vcore.welcome", "--cache-dir", ".mypy_cache")
    ruff = shutil.which("ruff", path=str(Path(sys.executable).parent)) or "ruff"
    python = sorted(name for name in copy.added if name.endswith(".py"))
    for command in (["check", "--no-cache"], ["format", "--no-cache", "--check", "--diff"]):
        done = subprocess.run([ruff, *command, *python], cwd=copy.folder, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


def test_the_head_sees_its_part_and_another_node_does_not(answers):
    assert answers["head"]["welcome"] == {
        "message": "Hello.",
        "announcement": {"text": "No jobs run on 24 December.", "until": "2026-12-24"},
        "address": "https://welcome.vcore.test:8443/",
    }
    assert answers["head"]["services"]["welcome"]["node"] == "head"
    assert "welcome" not in json.dumps({key: part for key, part in answers["compute-1"].items() if key != "names"})


def test_a_mistake_is_said_in_the_words_of_the_page(answers):
    assert answers["refused"] == SENTENCES


def test_the_states_of_the_head_have_the_service_and_those_of_nodes_do_not(answers):
    functions = {
        f"{low['state']}.{low['fun']}": low["__id__"]
        for low in answers["states"]["head"]["roles.head"]
        if "welcome" in low["__id__"]
    }
    assert functions == {
        "vcore_ca.issued": "The certificate welcome/tls is issued",
        "vcore_image.built": "The image of welcome is built",
        "vcore_swarm.service_running": "The service welcome runs",
    }
    for minion in ("head", "compute-1"):
        lows = answers["states"][minion]["roles.node"]
        assert lows and all(isinstance(low, dict) for low in lows), lows
        assert "welcome" not in json.dumps([low["__id__"] for low in lows])


def test_its_command_stands_beside_those_of_the_core(answers):
    assert {"vcore.welcome_show", "vcore.status", "vcore.user_add"} <= set(answers["functions"])
    assert answers["vcore.welcome_show"]["announcement"]["until"] == "2026-12-24"


def test_people_see_the_table_of_the_page(answers):
    rows = re.findall(r"^    ((?:WELCOME PAGE|https://welcome).*)$", PAGE.read_text(), re.M)
    assert len(rows) == 2
    assert [line.rstrip() for line in answers["shown"]["vcore.welcome_show"].splitlines()] == rows
    assert answers["vcore.status"]["welcome"] == answers["vcore.welcome_show"]
    assert [line for line in rows if line not in answers["shown"]["vcore.status"]] == []


def declared():
    """Every protocol of a face in the brain: the face's file, who asks, the names that it has."""
    for path in sorted(BRAIN.rglob("*.py")):
        for node in ast.parse(path.read_text()).body:
            for decorator in getattr(node, "decorator_list", ()):
                if isinstance(decorator, ast.Call) and ast.unparse(decorator.func) == "areas.face":
                    names = {inner.name for inner in node.body if isinstance(inner, ast.FunctionDef)}
                    names |= {inner.target.id for inner in node.body if isinstance(inner, ast.AnnAssign)}
                    yield f"{decorator.args[0].value}.py", path.relative_to(BRAIN).as_posix(), frozenset(names)


def test_the_page_has_every_face_and_no_other():
    file, said = "", set()
    rows = PAGE.read_text().partition("| file | names | who asks |")[2].partition("\n\n")[0].splitlines()[2:]
    for row in rows:
        cells = [re.findall(r"`([^`]+)`", cell) for cell in row.split("|")[1:4]]
        file = cells[0][0] if cells[0] else file
        said.add((file, cells[2][0], frozenset(cells[1])))
    assert said == set(declared())

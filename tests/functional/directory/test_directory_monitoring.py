"""What is measured of a real slapd, by the command for people."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from support.directory import SUFFIX, Core, build_image, loaders

#: Fills a database of 64 MiB, the smallest, in some hundred pictures.
PICTURE = b"\xff\xd8" + bytes(500_000)


@pytest.fixture(scope="module")
def core(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Core]:
    build_image()
    core = Core(tmp_path_factory.mktemp("core"), database_maximum_size="64M")
    try:
        core.bring_up()
        yield core
    finally:
        core.remove()


@pytest.fixture(scope="module")
def salt(core: Core) -> Any:
    return loaders(core)


def measured(salt: Any) -> tuple[int, dict[str, dict[str, Any]]]:
    """What the command returns, by key, and its exit code."""
    salt.context.pop("retcode", None)
    found = salt.modules["vcore.measurements"]()
    assert found["ok"] is (found["level"] == "ok")
    return salt.context.get("retcode", 0), {one["key"]: one for one in found["measurements"]}


def test_a_directory_that_is_well(core: Core, salt: Any) -> None:
    code, found = measured(salt)
    assert code == 0
    assert {key: one["level"] for key, one in found.items() if one["level"] != "ok"} == {}
    assert found["directory.entries"]["value"] == len(list(core.bind().search_s(SUFFIX, 2)))
    assert 0 < found["directory.bind.duration"]["value"] < 4
    assert 0 < found["directory.database.used"]["value"] < 10
    assert found["directory.connections"]["value"] >= 1
    assert found["directory.version"]["value"].startswith("OpenLDAP: slapd 2.6")


def test_counters_go_up(core: Core, salt: Any) -> None:
    _, before = measured(salt)
    core.bind().search_s(SUFFIX, 0)
    _, after = measured(salt)
    for key in ("directory.operations", "directory.binds", "directory.searches"):
        assert after[key]["counter"] is True
        assert after[key]["value"] > before[key]["value"]


def test_the_front_door_is_one_module_of_several_files(salt: Any) -> None:
    for name in ("vcore.measurements", "vcore.status", "vcore.user_list", "vcore.doctor"):
        assert name in salt.modules


def test_a_database_that_fills_is_a_warning_then_severe(core: Core, salt: Any) -> None:
    connection, levels, codes = core.bind(), [], []
    for number in range(130):
        name = f"uid=picture{number},ou=people,{SUFFIX}"
        classes = [b"inetOrgPerson"]
        person = {"objectClass": classes, "cn": [b"x"], "sn": [b"x"], "uid": [b"x%d" % number], "jpegPhoto": [PICTURE]}
        connection.add_s(name, list(person.items()))
        if number % 5 == 0:
            code, found = measured(salt)
            levels.append(found["directory.database.used"]["level"])
            codes.append(code)
            if levels[-1] == "severe":
                break
    assert sorted(set(levels), key=levels.index) == ["ok", "warning", "severe"]
    assert codes == [int(level == "severe") for level in levels]
    assert "database_maximum_size" in found["directory.database.used"]["problem"]


def test_a_directory_that_is_away_is_severe_and_told_once(core: Core, salt: Any) -> None:
    core.remove()
    code, found = measured(salt)
    assert code == 1
    levels = {key: one["level"] for key, one in found.items()}
    assert levels.pop("directory.answers") == "severe"
    assert set(levels.values()) == {"unknown"}
    assert "does not answer" in found["directory.entries"]["error"]

"""The front doors for people, ``vcore.<function>``: several files of one virtual name, in Salt's own loader."""

import shutil
from pathlib import Path

import pytest
import salt.config
import salt.loader
from support import modules

SALT = Path(__file__).parents[2] / "salt"
#: By folder, what Salt calls the kind of modules.
TAGS = {"_modules": "module", "_runners": "runners"}
BROKEN = """
from vcore import adapter

with adapter.imports() as __virtual__:
    import a_library_of_the_head

    __virtualname__ = "vcore"


def answer():
    return 42
"""


@pytest.fixture(params=["_modules", "_runners"])
def folder(request):
    return SALT / request.param


@pytest.fixture
def load(tmp_path):
    """Salt's loader on a folder; a new one has loaded nothing."""
    opts = salt.config.DEFAULT_MINION_OPTS.copy()
    opts.update(root_dir=str(tmp_path), cachedir=str(tmp_path / "cache"), extension_modules="")
    return lambda folder: salt.loader.LazyLoader([str(folder)], opts, tag=TAGS[folder.name])


def doors(folder):
    """Each function of the front doors, with its file's name."""
    return {
        name: path.stem
        for path in sorted(folder.glob("*.py"))
        for name in modules.functions(path.stem, path.read_text())
        if name.startswith("vcore.")
    }


def test_a_command_is_found_by_name_and_loads_front_doors_only(folder, load):
    """What else is in the folder is for states, and takes a while to load."""
    found = doors(folder)
    assert len(set(found.values())) > 2
    for command, file in found.items():
        loader = load(folder)
        assert command in loader
        assert file in loader.loaded_files
        assert loader.loaded_files <= set(found.values()), f"{command} loads more than front doors"


def test_all_commands_are_listed(folder, load):
    loader = load(folder)
    assert doors(folder).keys() == {name for name in loader if name.startswith("vcore.")}


@pytest.mark.parametrize("name", ["a_vcore", "z_vcore"])
def test_a_front_door_that_cannot_load_closes_no_other(folder, load, tmp_path, name):
    copy = tmp_path / folder.name
    shutil.copytree(folder, copy)
    (copy / f"{name}.py").write_text(BROKEN)
    loader = load(copy)
    assert "vcore.answer" not in loader
    assert loader.missing_modules[name] == (
        "the vcore package cannot be imported: No module named 'a_library_of_the_head'"
    )
    assert [command for command in doors(folder) if command not in loader] == []
    assert doors(folder).keys() == {command for command in load(copy) if command.startswith("vcore.")}


def test_a_brain_that_cannot_be_imported_is_told_of(folder, load, tmp_path):
    copy = tmp_path / folder.name
    copy.mkdir()
    for path in folder.glob("*vcore.py"):
        (copy / path.name).write_text(path.read_text().replace("from vcore.base", "from no_brain.base"))
    loader = load(copy)
    assert "vcore.answer" not in loader
    assert loader.missing_fun_string("vcore.answer") == (
        "'vcore' __virtual__ returned False: the vcore package cannot be imported: No module named 'no_brain'"
    )

"""Conventions that no linter checks: docstrings of all public functions of Salt's modules, and what no file may
contain.
"""

import ast
import re
import subprocess
from pathlib import Path

import pytest
from support import modules

CHECKOUT = Path(__file__).parents[2]
SALT = CHECKOUT / "salt"
TOGETHER = ("functional", "integration")


def functions(*folders):
    """Return every public function of these folders' modules, as (folder, whole name, function)."""
    return [
        pytest.param(folder, name, node, id=f"{folder}/{path.stem}:{name}")
        for folder in folders
        for path in sorted((SALT / folder).glob("*.py"))
        for name, node in modules.functions(path.stem, path.read_text()).items()
    ]


@pytest.mark.parametrize(("folder", "name", "function"), functions("_modules", "_runners"))
def test_a_function_for_people_says_how_it_is_called(folder, name, function):
    text = ast.get_docstring(function) or ""
    command = "salt-run" if folder == "_runners" else "salt-call"
    assert "CLI Example:" in text
    assert re.search(rf"{command} (--\S+ )*{re.escape(name)}\b", text), f"no example calls {name}"


@pytest.mark.parametrize("folder", ["_modules", "_runners", "_states"])
def test_modules_that_share_a_name_have_different_functions(folder):
    """Salt would take one of two functions of a name, and say nothing of the other."""
    names = [parameters.values[1] for parameters in functions(folder)]
    assert sorted(names) == sorted(set(names))


@pytest.mark.parametrize(("folder", "name", "function"), functions("_states"))
def test_a_state_describes_itself_and_its_arguments(folder, name, function):
    text = ast.get_docstring(function) or ""
    assert text, "no description"
    arguments = [argument.arg for argument in function.args.args if argument.arg != "name"]
    assert [name for name in arguments if f"\n{name}\n" not in f"\n{text}\n"] == []


def test_the_tree_holds_no_private_key_and_no_unfinished_word():
    listed = subprocess.run(
        ["git", "-c", "safe.directory=*", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=CHECKOUT, capture_output=True, text=True, check=True,
    ).stdout.split("\0")  # fmt: skip
    # Written in two parts, so that this file does not match itself.
    unwanted = re.compile("BEGIN [A-Z ]*PRIVATE" + " KEY-|TO" + "DO|FIX" + "ME|Not" + "ImplementedError")
    found = []
    for name in filter(None, listed):
        path = CHECKOUT / name
        if path.is_file() and unwanted.search(path.read_text(errors="replace")):
            found.append(name)
    assert found == []


def test_what_pytest_runs_together_has_names_of_its_own():
    """tests/run gives functional and integration tests to one pytest, which identifies a file by its base name."""
    names = [{path.name for path in (CHECKOUT / "tests" / folder).glob("test_*.py")} for folder in TOGETHER]
    assert set.intersection(*names) == set()


def test_salt_is_not_shadowed():
    assert not (SALT / "__init__.py").exists(), "a package salt/ here would hide Salt itself"

"""Conventions that no linter checks: docstrings of all public functions of Salt's modules, and what no file may
contain.
"""

import ast
import re
import subprocess
from pathlib import Path

import pytest
from support import modules
from vcore.base import errors

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


BRAIN = SALT / "_utils" / "vcore"
#: Classes of errors that Salt has beside the brain's own.
SALT_ERRORS = {"CommandExecutionError", "SaltInvocationError"}


#: Values that people read, by what they are called in dicts and calls.
SAID = {"error", "problem", "remedy", "seen"}


def said(node):
    """The expressions by which a node of the syntax tree says something to people."""
    match node:
        case ast.Call():
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if name in SALT_ERRORS or (name in vars(errors) and issubclass(vars(errors)[name], Exception)):
                yield from node.args[:1]
            if name == "problem":
                yield from node.args[1:2]
            if name == "append" and ast.unparse(node.func).endswith("problems.append"):
                yield from node.args
            yield from (keyword.value for keyword in node.keywords if keyword.arg in SAID)
        case ast.Dict():
            pairs = zip(node.keys, node.values, strict=True)
            yield from (
                value for key, value in pairs if isinstance(key, ast.Constant) and key.value in {*SAID, "title"}
            )
        case ast.Assign(targets=[ast.Subscript(slice=ast.Constant(value=str() as key))]) if key in SAID:
            yield node.value


def untranslated(path):
    """Lines of a file on which an error or a problem gets its words other than by the catalogue of messages."""
    found = []
    for words in (words for node in ast.walk(ast.parse(path.read_text())) for words in said(node)):
        # Words that somebody else has said already, and what joins them, are no text of ours.
        choices = words.values if isinstance(words, ast.BoolOp) else [words]
        parts = [
            part for choice in choices for part in (choice.values if isinstance(choice, ast.JoinedStr) else [choice])
        ]
        texts = [str(part.value) for part in parts if isinstance(part, ast.Constant)]
        if any(re.search(r"[a-z]{3,} +[a-z]{2,}|^[a-z]{3,} $", text) for text in texts):
            found.append(f"{path.relative_to(CHECKOUT)}:{words.lineno}: {ast.unparse(words)[:80]}")
    return found


@pytest.mark.parametrize("folder", ["_utils/vcore", "_modules", "_runners", "_states"])
def test_errors_and_problems_get_their_words_by_the_catalogue_of_messages(folder):
    found = [line for path in sorted((SALT / folder).rglob("*.py")) for line in untranslated(path)]
    assert found == [], "\n".join(["say it by tr (vcore.base.messages):", *found])


def test_messages_quote_inputs_by_quoted():
    """Python's own notation would show whole what a stranger sends, and change with the type of the value."""
    template = BRAIN / "locale" / "vcore.pot"
    assert re.findall(r'^msgid ".*![rsa]}.*', template.read_text(), re.MULTILINE) == []

"""Commands, options, files and headings that the documentation names exist."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from support import modules, pages
from vcore import reference

CHECKOUT = Path(__file__).parents[2]
DOCS = CHECKOUT / "docs"
#: Generated pages are compared with their models in test_reference.py.
PAGES = [CHECKOUT / "README.md", CHECKOUT / "CHANGELOG.md", *sorted(DOCS.glob("*.md"))]
FOLDERS = {"salt-call": "_modules", "salt-run": "_runners"}


def functions(folder, page):
    """Return the functions of Salt's modules, on the head, in images and on a page, named as in ``vcore_ca.list``."""
    paths = [*(CHECKOUT / "salt" / folder).glob("*.py"), *CHECKOUT.glob(f"images/*/rootfs/**/salt/{folder}/*.py")]
    texts = [(path.stem, path.read_text()) for path in paths]
    texts += [
        (Path(name).stem, text) for name, text in pages.files(page).items() if Path(name).parent.match(f"salt/{folder}")
    ]
    return {name for stem, text in texts for name in modules.functions(stem, text)}


def anchors(page):
    """Return the headings of a page, as links name them, without lines in blocks of code."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.M | re.S)
    return {reference.anchor(line.lstrip("# ")) for line in text.splitlines() if line.startswith("#")}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    broken = []
    text = re.sub(r"`[^`]*`", "", page.read_text())
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, heading = target.partition("#")
        file = (page.parent / name).resolve() if name else page
        if not file.exists() or (heading and heading not in anchors(file)):
            broken.append(target)
    assert broken == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_that_are_shown_exist(page):
    called = re.findall(r"(salt-call|salt-run) (?:--\S+ )*(vcore\w*\.\w+)", page.read_text())
    unknown = [f"{program} {name}" for program, name in called if name not in functions(FOLDERS[program], page)]
    assert unknown == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_functions_that_are_named_exist(page):
    known = {name for folder in ("_modules", "_runners", "_states") for name in functions(folder, page)}
    # Keys of the site file are written the same way.
    named = {name for name in re.findall(r"`(vcore\w*\.\w+)`", page.read_text()) if not name.startswith("vcore.")}
    assert named <= known


def test_the_index_names_every_page():
    linked = set(re.findall(r"\]\(([a-z-]+\.md)\)", (DOCS / "README.md").read_text()))
    assert linked == {page.name for page in DOCS.glob("*.md")} - {"README.md"}


def options(text):
    return set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", text)) - {"--help"}


def section(page, heading):
    """Return the text below a heading, up to the next one."""
    return page.read_text().partition(f"\n## {heading}\n")[2].partition("\n## ")[0]


def test_every_option_of_bootstrap_is_described_and_no_other():
    said = subprocess.run([CHECKOUT / "bootstrap.sh", "--help"], capture_output=True, text=True, check=True).stdout
    assert options(section(DOCS / "install.md", "Options")) == options(said)


def test_every_command_and_option_of_the_lab_is_described_and_no_other():
    def help_of(*command):
        done = subprocess.run(
            [sys.executable, CHECKOUT / "lab", *command, "--help"], capture_output=True, text=True, check=True
        )
        return done.stdout

    page = (DOCS / "lab.md").read_text()
    commands = re.findall(r"^    ([a-z]+) ", help_of(), flags=re.M)
    assert len(commands) >= 7
    described = {name for name in commands if re.search(rf"`{name}[ `]", page)}
    assert described == set(commands)
    known = options(help_of()).union(*(options(help_of(name)) for name in commands))
    rows = "".join(line for line in page.splitlines() if line.startswith("| `"))
    assert options(rows) | {"--name", "--yes"} == known

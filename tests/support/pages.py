"""Pages of the documentation that hold whole files: a path in backquotes on a line of its own, a fenced block below."""

from __future__ import annotations

import re
from pathlib import Path

FILE = re.compile(r"^`([^`\s]+)`\n\n```\w+\n(.*?)^```$", re.M | re.S)


def files(page: Path) -> dict[str, str]:
    """Return the files of a page by their paths in the checkout, in the order in which they stand there."""
    return dict(FILE.findall(page.read_text()))


def blocks(page: Path, language: str) -> list[str]:
    """Return the fenced blocks of a language that are no files."""
    return re.findall(rf"^```{language}\n(.*?)^```$", FILE.sub("", page.read_text()), re.M | re.S)


def write(page: Path, folder: Path) -> list[Path]:
    """Write the files of a page into a checkout, scripts executable; return their paths."""
    made = []
    for name, text in files(page).items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(0o755 if text.startswith("#!") else 0o644)
        made.append(path)
    return made

"""Messages for people: all of them go through one catalogue, by which they can be translated (GNU gettext).

::

    raise VcoreError(tr("no node {node} below vcore.nodes", node=node))

The English text is the key. ``locale/vcore.pot`` beside this package lists all of them; ``python -m vcore.reference``
writes it. A translation is ``locale/<language>/LC_MESSAGES/vcore.mo``, made from a copy of that file by msgfmt(1), and
is chosen by LANGUAGE, LC_ALL, LC_MESSAGES or LANG of the process; without one, the text is as it stands in the code.
"""

from __future__ import annotations

import gettext
from pathlib import Path
from typing import Any

DOMAIN = "vcore"
FOLDER = Path(__file__).resolve().parents[1] / "locale"

_catalogue = gettext.translation(DOMAIN, FOLDER, fallback=True)


def tr(message: str, /, **values: Any) -> str:
    """Return a message in the language of this process, with its values in place of their names in braces."""
    text = _catalogue.gettext(message)
    return text.format(**values) if values else text


def quoted(value: Any) -> str:
    """Return an input as messages quote it: one line of at most 60 ASCII characters, which reveals look-alikes."""
    text = ascii(value)
    return text if len(text) <= 60 else text[:57] + "..."

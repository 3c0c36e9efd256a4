"""Checks of the directory's web page from outside."""

from __future__ import annotations

import ssl
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from typing import Any

from ..base.checks import Check, result
from ..base.messages import tr
from ..base.paths import Paths

#: Text on the login page; the container's own probe looks for it, too.
LOGIN_PAGE = "Only administrators log in here"


def address(pillar: Mapping[str, Any]) -> str:
    """Return the page's URL, with the address of its node, which its certificate names."""
    service = pillar["services"]["directory-web"]
    host = pillar["nodes"][service["node"]]["address"]
    return f"https://{f'[{host}]' if ':' in host else host}:{service['ports']['https']['number']}/"


def checks(pillar: Mapping[str, Any], paths: Paths) -> list[Check]:
    """Fetch the page as a client that trusts the core's authority, and try to log in without a password."""
    page = address(pillar)
    authority = paths.authority / "ca.crt"
    remedy = tr("run salt-call state.apply, then docker service logs directory-web")
    found = []
    for tried, path, form, wanted in (
        (f"{page} shows its login, the certificate verified by the site's authority", "login", None, 200),
        ("a login without a password is refused there", "login", {"cmd": "login", "login": "nobody"}, 403),
    ):
        data = None if form is None else urllib.parse.urlencode(form).encode()
        try:
            context = ssl.create_default_context(cafile=str(authority))
            opener = urllib.request.build_opener(
                urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context)
            )
            with opener.open(page + path, data, timeout=5) as answer:
                status, text = answer.status, answer.read(100_000).decode(errors="replace")
        except urllib.error.HTTPError as error:
            status, text = error.code, error.read(100_000).decode(errors="replace")
        except OSError as error:
            found.append(result(tried, False, str(error), remedy))
            continue
        ok = status == wanted and LOGIN_PAGE in text
        found.append(result(tried, ok, tr("status {status}", status=status), remedy))
    return found

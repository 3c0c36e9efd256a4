"""Keys that wait for acceptance, and a check of what new machines fetch."""

from __future__ import annotations

import ssl
import urllib.request
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from ..base.checks import Check, result
from ..base.messages import tr
from ..base.names import NODE_NAME
from ..base.paths import Paths
from . import bundle
from .admission import LISTED, Refusals


def facts(pillar: Mapping[str, Any], paths: Paths, so_far: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``pending``: the keys that wait; those under names of existing nodes are marked."""
    return {"pending": waiting(paths, paths.keys, known=pillar["nodes"])}


def problems(facts: Mapping[str, Any]) -> list[str]:
    """Return the keys that wait under names of nodes: they are of reinstalled machines, or of somebody else."""
    keys = facts.get("pending", {}).get("keys", [])
    return [
        tr(
            "key of {id}: a node has this name, and another key with the same name waits: {reason}",
            id=key["id"],
            reason=key["reason"],
        )
        for key in keys
        if key.get("node")
    ]


def checks(pillar: Mapping[str, Any], paths: Paths) -> list[Check]:
    """Fetch the bundle as new machines do, trusting only the authority, and compare it with the file."""
    if "enrolment" not in pillar["services"]:
        return []
    port = pillar["services"]["enrolment"]["ports"]["https"]["number"]
    address = f"https://{pillar['head']['address']}:{port}/{bundle.BUNDLE}"
    trust = ssl.create_default_context(cafile=str(paths.authority / "ca.crt"))
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=trust))
    wanted = Path(pillar["services"]["enrolment"]["volumes"]["public"]["source"]) / bundle.BUNDLE
    try:
        with opener.open(address, timeout=5) as answer:
            data = answer.read()
        ok, saw = data == wanted.read_bytes(), tr("{data} bytes", data=len(data))
    except OSError as error:
        ok, saw = False, str(error)
    return [
        result(
            tr("{address} is what new machines join by", address=address),
            ok,
            saw,
            tr("apply the states: salt-call state.apply"),
        )
    ]


def waiting(paths: Paths, pki: Path, known: Collection[str] = ()) -> dict[str, Any]:
    """Return the keys that wait for acceptance, and those denied because another key has their id.

    ``{count, keys: [{id, reason, node}]}``, with at most twenty keys listed. ``node`` says that the id is one of
    ``known``, and that another key with this id is accepted.
    """
    accepted = set(_ids(pki / "minions"))
    reasons = Refusals(paths.state / "enrolment.json").read()
    denied = dict.fromkeys(_ids(pki / "minions_denied"), DENIED)
    found = {**{name: reasons.get(name) or UNPROVEN for name in _ids(pki / "minions_pre")}, **denied}
    # Keys that could be of nodes come first: a flood of others must not hide them.
    first = sorted(
        found, key=lambda name: (name not in known, NODE_NAME.fullmatch(name) is None, found[name] == UNPROVEN, name)
    )[:LISTED]
    keys = [
        {"id": printable(name), "reason": _reason(name, found[name]), "node": name in known and name in accepted}
        for name in first
    ]
    return {"count": len(found), "keys": keys}


#: Why a key waits without a more specific reason, and why Salt's master denied one.
UNPROVEN = "it came without a valid proof; if it is yours: salt-key -a {}"


DENIED = "another key has this id; if that machine was reinstalled: salt-key -d {}"


def _ids(folder: Path) -> list[str]:
    try:
        return [entry.name for entry in folder.iterdir() if not entry.name.startswith(".")]
    except FileNotFoundError:
        return []


def _reason(name: str, reason: str) -> str:
    return reason.replace("{}", name) if NODE_NAME.fullmatch(name) else "its id is no name for a node"


def printable(text: str, length: int = 63) -> str:
    """Return text from strangers as one line of at most ``length`` printable characters."""
    plain = text[: length + 1].encode("unicode_escape").decode("ascii")
    return plain if len(plain) <= length else f"{plain[: length - 1]}…"

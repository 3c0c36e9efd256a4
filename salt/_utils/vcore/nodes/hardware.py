"""Check what a node says of its hardware, which may be made up.

The facts come from the grain ``vcore_hardware`` (salt/_grains/vcore_hardware.py); every consumer gets them through
:func:`validate`. This module needs only the standard library.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ..base.errors import VcoreError
from ..base.messages import tr

#: Least and greatest value of each number.
NUMBERS: dict[str, tuple[int, int]] = {
    "sockets": (1, 1024),
    "cores_per_socket": (1, 4096),
    "threads_per_core": (1, 16),
    "cpus": (1, 65_533),
    "memory_mib": (64, 2**40),
    "scratch_mib": (0, 2**40),
}
CGROUPS = ("v2", "guarded", "none")
MOST_GPUS = 256
#: A type as gres.conf writes it, a device file, and NVIDIA's name of a part of a GPU, such as 1g.5gb.
GPU_TYPE = re.compile(r"[a-z][a-z0-9_.-]{0,31}")
DEVICE = re.compile(r"/dev/[a-z][a-z0-9]{0,31}([/_-][a-zA-Z0-9]{1,32}){0,3}")
MIG_PROFILE = re.compile(r"[1-9]g\.[1-9][0-9]{0,3}gb(\.me)?")


def validate(facts: Any, *, opens: bool = False) -> dict[str, Any]:
    """Return a node's hardware facts after checking keys, types, ranges, and that the numbers are consistent.

    ``memory_mib`` and ``scratch_mib`` are MiB. ``cgroups`` is ``v2`` where the kernel can limit jobs' memory, else
    ``none``; a node on which AppArmor prevents that says ``guarded``, which becomes ``v2`` if Docker can lift AppArmor
    (``opens``), else ``none``. ``gpus`` lists ``{type, file, mig}``, sorted by device; ``mig`` is None for a whole GPU,
    ``{profile, files}`` for a part of one.

    Raises:
        VcoreError: a fact is missing or impossible; the message shows only what is safe to print.
    """
    if not isinstance(facts, Mapping):
        raise VcoreError(tr("the node reports no hardware"))
    known = {*NUMBERS, "cgroups", "gpus"}
    if unknown := [key for key in facts if key not in known]:
        raise VcoreError(tr("the node reports unknown hardware: {unknown}", unknown=_shown(unknown[0])))
    clean: dict[str, Any] = {}
    for key, (least, most) in NUMBERS.items():
        value = facts.get(key, 0 if key == "scratch_mib" else None)
        if type(value) is not int or not least <= value <= most:
            raise VcoreError(
                tr(
                    "hardware: {key} has to be a number from {least} to {most}, not {value}",
                    key=key,
                    least=least,
                    most=most,
                    value=_shown(value),
                )
            )
        clean[key] = value
    if clean["cpus"] != clean["sockets"] * clean["cores_per_socket"] * clean["threads_per_core"]:
        raise VcoreError(tr("hardware: cpus is not sockets x cores_per_socket x threads_per_core"))
    clean["cgroups"] = facts.get("cgroups", "none")
    if clean["cgroups"] not in CGROUPS:
        raise VcoreError(
            tr(
                "hardware: cgroups has to be one of {cgroups}, not {cgroups_2}",
                cgroups=", ".join(CGROUPS),
                cgroups_2=_shown(clean["cgroups"]),
            )
        )
    if clean["cgroups"] == "guarded":
        clean["cgroups"] = "v2" if opens else "none"
    gpus = facts.get("gpus", [])
    if not isinstance(gpus, list) or len(gpus) > MOST_GPUS:
        raise VcoreError(tr("hardware: gpus has to be a list of at most {most_gpus}", most_gpus=MOST_GPUS))
    clean["gpus"] = sorted((_gpu(gpu) for gpu in gpus), key=_order)
    devices = [device for gpu in clean["gpus"] for device in ((gpu["mig"] or {}).get("files") or [gpu["file"]])[-1:]]
    if len(set(devices)) != len(devices):
        raise VcoreError(tr("hardware: gpus lists a device twice"))
    return clean


def _gpu(gpu: Any) -> dict[str, Any]:
    if not isinstance(gpu, Mapping) or set(gpu) != {"type", "file", "mig"}:
        raise VcoreError(tr("hardware: a GPU has type, file and mig"))
    _matches("type", gpu["type"], GPU_TYPE)
    _matches("file", gpu["file"], DEVICE)
    mig = gpu["mig"]
    if mig is not None:
        if not isinstance(mig, Mapping) or set(mig) != {"profile", "files"}:
            raise VcoreError(tr("hardware: mig of a GPU has profile and files"))
        _matches("profile", mig["profile"], MIG_PROFILE)
        if not isinstance(mig["files"], list) or not 1 <= len(mig["files"]) <= 8:
            raise VcoreError(tr("hardware: mig.files has to be a list of devices"))
        for file in mig["files"]:
            _matches("files", file, DEVICE)
        mig = {"profile": mig["profile"], "files": list(mig["files"])}
    return {"type": gpu["type"], "file": gpu["file"], "mig": mig}


def _order(gpu: Mapping[str, Any]) -> tuple[Any, ...]:
    def numbered(text: str) -> list[Any]:
        return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"([0-9]+)", text)]

    return (numbered(gpu["file"]), [numbered(file) for file in (gpu["mig"] or {}).get("files", [])])


def _matches(key: str, value: Any, pattern: re.Pattern[str]) -> None:
    if not isinstance(value, str) or not pattern.fullmatch(value):
        raise VcoreError(tr("hardware: {key} of a GPU cannot be {value}", key=key, value=_shown(value)))


def _shown(value: Any) -> str:
    text = ascii(value)
    return text if len(text) <= 60 else f"{text[:57]}..."

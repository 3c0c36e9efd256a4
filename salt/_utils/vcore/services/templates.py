"""Rendering of the config templates of a service, which are its own or, where a trait brings them, an area's.

A template sees the resolved pillar but no secrets: the result becomes a swarm config, which ``docker config inspect``
shows and a plan prints.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2

from ..base.errors import VcoreError
from ..base.messages import tr
from ..base.paths import Paths
from .placement import ServicePart


def context(service: ServicePart, pillar: Mapping[str, Any], authority: str) -> dict[str, Any]:
    """Return the names that a template can use.

    ``service``: the resolved service; ``settings``: its settings; ``authority``: ``{certificate: <root certificate,
    PEM>}``; and every part of the resolved pillar by its key, such as ``site``, ``nodes``, ``services``.
    """
    parts = {key: part for key, part in pillar.items() if key != "secrets"}
    own = {"service": service, "settings": service["settings"], "authority": {"certificate": authority}}
    return parts | own


def folder(service: str, config: Mapping[str, Any], paths: Paths) -> Path:
    """Return the folder that the template of a resolved config lies in."""
    area = config["area"]
    return (paths.area_states / area if area else paths.services / service) / "files"


def render(folder: Path, template: str, names: Mapping[str, Any]) -> bytes:
    """Render ``folder/template``; an undefined variable is an error, and the final line break stays.

    Raises:
        VcoreError: the template is missing or has an error; the message names file and line.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(folder),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        keep_trailing_newline=True,
    )
    try:
        return environment.get_template(template).render(names).encode()
    except jinja2.TemplateNotFound as error:
        raise VcoreError(tr("the template {folder} does not exist", folder=folder / str(error.name))) from None
    except jinja2.TemplateSyntaxError as error:
        raise VcoreError(
            tr(
                "{filename}, line {lineno}: {message}",
                filename=error.filename or folder / template,
                lineno=error.lineno,
                message=error.message,
            )
        ) from None
    except Exception as error:  # a template is a program that can raise anything
        raise VcoreError(
            tr("{folder}, line {line}: {error}", folder=folder / template, line=_line(error), error=error)
        ) from None


def _line(error: Exception) -> int | str:
    """Return the template's line at which it failed: that of the last traceback frame outside Python source."""
    line: int | str = "?"
    trace = error.__traceback__
    while trace:
        if not trace.tb_frame.f_code.co_filename.endswith(".py"):
            line = trace.tb_lineno
        trace = trace.tb_next
    return line

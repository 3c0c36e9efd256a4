"""What a site may write about image builds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..base.messages import tr
from ..host.network import Route
from ..kernel.documents import Problem
from ..kernel.models import (
    AbsolutePath,
    DownloadAddress,
    Model,
    field,
)
from ..kernel.sections import Section
from ..kernel.site import Configuration


class BuildSettings(Model):
    """Where image builds get their software from; what is left out is picked up from the head itself."""

    source: str = field(
        "mmdebstrap",
        min_length=1,
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._/:@-]*$",
        description="mmdebstrap makes the base image from Debian packages; anything else is an image to pull instead.",
        example="registry.example.org/debian:13",
    )
    mirror: DownloadAddress | None = field(
        None, description="Debian mirror.", example="http://debian.example.org/debian"
    )
    python_index: DownloadAddress | None = field(
        None, description="Index of Python packages, instead of PyPI.", example="https://pypi.example.org/simple"
    )
    proxy: DownloadAddress | None = field(None, description="HTTP proxy.", example="http://proxy.example.org:3128")
    ca_bundle: AbsolutePath | None = field(
        None, description="PEM file of the authorities that downloads are checked against.", example="/etc/ssl/site.pem"
    )
    refresh: str = field(
        "",
        pattern=r"^[A-Za-z0-9.-]*$",
        description="Change it, to a date say, and every image is rebuilt with the packages of that day.",
        example="2026-11-22",
    )


BUILD: Section[BuildSettings] = Section("build", BuildSettings, description="Where image builds get software from.")

SECTIONS = (BUILD,)


def host_problems(configuration: Configuration, routes: Sequence[Route]) -> list[Problem]:
    """Return a problem if the bundle of authorities that the site names is missing on this host."""
    bundle = BUILD.of(configuration.site).ca_bundle
    if bundle and not Path(bundle).is_file():
        return [configuration.document.problem(("build", "ca_bundle"), tr("{bundle} does not exist", bundle=bundle))]
    return []

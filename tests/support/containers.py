"""Commands in containers of tests."""

from __future__ import annotations

from typing import Any

import docker
from vcore.host import containers


def execute(api: docker.APIClient, container: str | None, *command: str, **options: Any) -> tuple[int, str]:
    """Run a command in a container; return exit code and output. Options: ``user``, ``workdir``, ``environment``."""
    assert container, "it does not run"
    code, output = containers.execute(container, command, client=api, **options)
    return code, output.decode(errors="replace")

"""The connection to Docker, and its errors as messages for an administrator."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import docker
import requests

from ..base.errors import VcoreError
from ..base.messages import tr

#: Seconds that Docker may take to answer.
PATIENCE = 300


@contextmanager
def docker_errors() -> Iterator[None]:
    """Turn errors of docker-py into one line for an administrator; the daemon's messages hold no request bodies."""
    try:
        yield
    except docker.errors.APIError as error:
        raise VcoreError(
            tr(
                "Docker refused: {without_credentials}",
                without_credentials=without_credentials(str(error.explanation or error)),
            )
        ) from None
    except (docker.errors.DockerException, requests.exceptions.RequestException) as error:
        said = without_credentials(str(error))
        raise VcoreError(
            tr("the Docker daemon does not answer ({said}); start it: systemctl start docker", said=said)
        ) from None


def connect() -> Any:
    """Return a client of the daemon that ``DOCKER_HOST`` names, by default this machine's.

    Raises:
        VcoreError: it does not answer.
    """
    with docker_errors():
        return docker.APIClient(base_url=os.environ.get("DOCKER_HOST"), version="auto", timeout=PATIENCE)


def without_credentials(text: str) -> str:
    """Return the text with user names and passwords in addresses masked."""
    return re.sub(r"//[^/@\s]+@", "//***@", text)

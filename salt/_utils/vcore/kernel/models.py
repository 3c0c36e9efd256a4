"""The base of every model, and the types that several of them use."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints

from ..base.messages import tr
from ..base.names import NODE_NAME as NODE_NAME


class Model(BaseModel):
    """A strict, immutable model: an unknown key is an error, and a string is never taken for a number."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


def _size(value: Any) -> Any:
    """Convert ``512M`` or ``2G`` to bytes; whole numbers are bytes already."""
    if isinstance(value, str):
        matched = re.fullmatch(r"([1-9][0-9]{0,8})([KMGT])", value.strip())
        if not matched:
            raise ValueError(tr("a size is a whole number with K, M, G or T behind it, such as 512M"))
        return int(matched[1]) * 1024 ** ("KMGT".index(matched[2]) + 1)
    return value


def _mode(value: Any) -> Any:
    """Refuse a file mode that is a number: it has to be a quoted octal string."""
    if isinstance(value, int):
        raise ValueError(tr('a mode is a quoted octal string, such as "0640", not the number {value}', value=value))
    return value


def _absolute(value: str) -> str:
    if ".." in value.split("/") or "\n" in value:
        raise ValueError(tr("a path has no '..' and no line break"))
    return value


#: Folders that belong to the system: the core must not own, chmod or purge any of them.
SYSTEM_FOLDERS = {
    f"/{name}"
    for name in ("", "bin", "boot", "dev", "etc", "home", "lib", "media", "mnt", "opt", "proc", "root", "run", "sbin",
                 "srv", "sys", "tmp", "usr", "var")
}  # fmt: skip


def _data_folder(value: str) -> str:
    if (value.rstrip("/") or "/") in SYSTEM_FOLDERS or "//" in value:
        raise ValueError(tr("has to be a folder of its own, such as /srv/virtual-core/data"))
    return value.rstrip("/")


DOWNLOAD_ADDRESS = r"https?://[^\s'\"@]+"


def _download_address(value: str) -> str:
    # No password: everybody who may run Salt sees the resolved site.
    if not re.fullmatch(DOWNLOAD_ADDRESS, value):
        raise ValueError(tr("has to be an http:// or https:// address, without a user or password in it"))
    return value


def field(default: Any = ..., *, unit: str | None = None, example: Any = None, **more: Any) -> Any:
    """Return a pydantic field with its unit and an example for the generated documentation."""
    extra = {key: value for key, value in (("unit", unit), ("example", example)) if value is not None}
    if "default_factory" in more:
        return Field(json_schema_extra=extra or None, **more)
    return Field(default, json_schema_extra=extra or None, **more)


NodeName = Annotated[str, StringConstraints(pattern=rf"^{NODE_NAME.pattern}$")]
ServiceName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9-]{0,30}$")]
#: A name inside a service; it becomes part of the names of swarm configs and secrets.
ItemName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9.-]{0,29}$")]
DomainName = Annotated[
    str, StringConstraints(pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*$")
]
AbsolutePath = Annotated[str, StringConstraints(pattern=r"^/[^\x00]*$"), AfterValidator(_absolute)]
#: A folder that holds data of the core, and nothing else.
DataFolder = Annotated[AbsolutePath, AfterValidator(_data_folder)]
DownloadAddress = Annotated[
    str, AfterValidator(_download_address), Field(json_schema_extra={"pattern": f"^{DOWNLOAD_ADDRESS}$"})
]
#: A number of bytes, written as a number or as 512M, 2G.
Size = Annotated[
    int, BeforeValidator(_size, json_schema_input_type=int | str), Field(ge=1, json_schema_extra={"unit": "bytes"})
]
#: A file mode, such as "0640"; the quotes keep YAML from reading it as a number.
Mode = Annotated[str, StringConstraints(pattern=r"^0[0-7]{3}$"), BeforeValidator(_mode)]

SSH_KEY = re.compile(r"(ssh-|ecdsa-|sk-)[a-z0-9@.-]+ [A-Za-z0-9+/=]+( [^\r\n\x00]*)?")

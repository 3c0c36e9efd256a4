"""Where Virtual Core keeps its things on a head node."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Paths:
    """The directories of one installation; the Salt option ``virtual_core`` overrides the defaults.

    ``checkout`` holds this source tree, ``configuration`` what must not be lost (authority, secrets; root only),
    ``state`` what can be made again (records of builds and convergences).
    """

    checkout: Path = Path("/srv/virtual-core/source")
    configuration: Path = Path("/etc/virtual-core")
    state: Path = Path("/var/lib/virtual-core")
    #: Where Salt's master keeps its keys: beside those of the head's minion.
    keys: Path = Path("/etc/salt/pki/master")

    @classmethod
    def from_opts(cls, opts: Mapping[str, Any]) -> Paths:
        """Read the directories from Salt's ``__opts__``, as bootstrap.sh wrote them."""
        chosen = {key: Path(value) for key, value in (opts.get("virtual_core") or {}).items()}
        if "pki_dir" in opts:
            chosen.setdefault("keys", Path(opts["pki_dir"]).parent / "master")
        return cls(**chosen)

    @property
    def authority(self) -> Path:
        """The certificate authority: root key and certificate, issued leaves, revocations."""
        return self.configuration / "authority"

    @property
    def secrets(self) -> Path:
        """The secret store: a folder for each service, with a file for each secret."""
        return self.configuration / "secrets"

    @property
    def nodes(self) -> Path:
        """The nodes that were enrolled, with what is known of them; see :mod:`vcore.nodes.registry`."""
        return self.configuration / "nodes.json"

    @property
    def services(self) -> Path:
        """The catalogue: one folder for each service that the project knows."""
        return self.checkout / "salt" / "states" / "services"

    @property
    def area_states(self) -> Path:
        """The states that areas bring to nodes, and the templates of their traits; a folder for each area with some."""
        return self.checkout / "salt" / "states" / "areas"

    @property
    def images(self) -> Path:
        """The sources of the container images, one folder each."""
        return self.checkout / "images"

    @property
    def site(self) -> Path:
        """The administrator's site file."""
        return self.checkout / "pillar" / "site.sls"

    @property
    def flavors(self) -> Path:
        """The flavors: site fragments that switch a field's services and settings on."""
        return self.checkout / "pillar" / "flavors"

    @property
    def versions(self) -> Path:
        """The one file of pinned versions."""
        return self.checkout / "versions.yaml"

    @property
    def progress(self) -> Path:
        """Lines of progress of long steps, for whoever is watching."""
        return self.state / "progress.jsonl"

"""What services that trust the core's authority are given."""

from __future__ import annotations

from ..services.catalogue import Trait

TRAITS = {
    "authority": Trait(
        configs={"authority.pem": {"template": "authority.pem.j2", "path": "/etc/virtual-core/authority.pem"}}
    )
}

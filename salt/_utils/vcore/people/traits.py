"""What services whose containers know the core's people are given; images/people is what it is for."""

from __future__ import annotations

from ..services.catalogue import Trait

TRAITS = {
    "people": Trait(
        uses=("authority",),
        configs={"people.json": {"template": "people.json.j2", "path": "/etc/virtual-core/people.json"}},
        secrets={
            "readonly-password": {
                "service": "ldap",
                "path": "/run/secrets/readonly-password",
                "description": "With which it looks people and groups up.",
            }
        },
    )
}

"""Docker Swarm: membership, networks, and services that run as they are specified."""

USES = ("certificates", "images", "services")

"""Docker Swarm: membership, networks, and the services that run on it."""

USES = ("certificates", "images", "services")

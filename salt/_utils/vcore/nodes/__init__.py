"""The nodes of the core: their registry, their convergence, and leaving."""

USES = ("swarm",)

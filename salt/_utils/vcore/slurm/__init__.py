"""SLURM: configuration, queue, accounting, and the SLURM that a site has already."""

USES = ("directory", "nodes", "people", "services", "swarm")

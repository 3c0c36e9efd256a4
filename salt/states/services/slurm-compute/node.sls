# On each compute node: the name by which SLURM knows it.
SLURM on this node knows its name:
  vcore_slurm.node_named:
    - require:
      - vcore_host: The services that run here have data folders

# On each compute node: by which name SLURM knows it.
SLURM on this node knows its name:
  vcore_slurm.node_named:
    - require:
      - vcore_host: The services that run here have data folders

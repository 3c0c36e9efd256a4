# Unmount homes and data; the files stay where they are. This needs no pillar, because the head may be gone.
No homes and data are mounted here:
  vcore_storage.absent:
    - require:
      - vcore_swarm: This machine has left the swarm

# Homes and data are unmounted; the files stay where they lie. It needs no pillar, since the head may be gone.
No homes and data are mounted here:
  vcore_storage.absent:
    - require:
      - vcore_swarm: This machine has left the swarm

# Unmount routes from other file servers, after the containers that have files of theirs open have ended.
No routes from other file servers are mounted here:
  vcore_route.absent:
    - require:
      - vcore_swarm: This machine has left the swarm

# Routes from other file servers are unmounted, behind the containers that have files of theirs open.
No routes from other file servers are mounted here:
  vcore_route.absent:
    - require:
      - vcore_swarm: This machine has left the swarm

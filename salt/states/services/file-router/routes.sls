# On the node on which the file router runs: its pulls from other file servers, and this node's mounts of them.
The file router knows what to pull:
  vcore_route.configured:
    - require:
      - vcore_host: The services that run here have data folders

# Last, because owners are looked up in the directory, which a new core does not have earlier.
The routes are mounted:
  vcore_route.mounted:
    - order: last
    - require:
      - vcore_host: The services that run here have data folders

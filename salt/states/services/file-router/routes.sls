# On the node that the file router runs on: what it pulls from other file servers, and what this node mounts of them.
The file router knows what to pull:
  vcore_route.configured:
    - require:
      - vcore_host: The services that run here have data folders

# Last, since owners are looked up in the directory, which a new core does not have before.
The routes are mounted:
  vcore_route.mounted:
    - order: last
    - require:
      - vcore_host: The services that run here have data folders

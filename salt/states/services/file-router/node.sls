# On the node on which the file router runs: its configuration, and a check that it is in force.
include:
  - services.file-router.routes

The file router has its configuration:
  vcore_file_router.configured:
    - require:
      - vcore_host: The services that run here have data folders

The file router serves its configuration:
  vcore_file_router.serving:
    - require:
      - vcore_file_router: The file router has its configuration

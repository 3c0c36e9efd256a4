# A compute node: it trusts the core, to pull images and reach the directory, and runs the tasks that the swarm assigns.
include:
  - roles.node

This host trusts the certificate authority:
  vcore_ca.trusted: []

This host is in the swarm of the head:
  vcore_swarm.joined:
    - require:
      - vcore_ca: This host trusts the certificate authority
      - vcore_host: The services of the core have names
      - vcore_host: The services that run here have data folders

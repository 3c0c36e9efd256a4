# Takes the role off this machine: swarm, storage, routes, names and trust. Files stay where they lie. It needs no pillar,
# since the head may be gone.
This machine is no longer in the swarm of the head:
  vcore_swarm.parted: []

No homes and data are mounted here:
  vcore_storage.absent:
    - require:
      - vcore_swarm: This machine is no longer in the swarm of the head

No routes from other file servers are mounted here:
  vcore_route.absent:
    - require:
      - vcore_swarm: This machine is no longer in the swarm of the head

Nobody of the core logs in on this machine:
  vcore_login.absent: []

The names of the core's services are gone:
  vcore_host.names_present:
    - addresses: {}

This host does not trust the certificate authority:
  vcore_ca.untrusted: []

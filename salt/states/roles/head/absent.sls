# Takes the role off this machine: services, swarm, storage, routes, trust and names. Data, authority and secrets stay.
This machine is in no swarm:
  vcore_swarm.left: []

No homes and data are mounted here:
  vcore_storage.absent:
    - require:
      - vcore_swarm: This machine is in no swarm

No routes from other file servers are mounted here:
  vcore_route.absent:
    - require:
      - vcore_swarm: This machine is in no swarm

Nobody of the core logs in on this machine:
  vcore_login.absent: []

The names of the core's services are gone:
  vcore_host.names_present:
    - addresses: {}

This host does not trust the certificate authority:
  vcore_ca.untrusted: []

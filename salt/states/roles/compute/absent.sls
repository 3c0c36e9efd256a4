# Takes the role off this machine: storage, routes, names and trust. Files stay where they lie.
No homes and data are mounted here:
  vcore_storage.absent: []

No routes from other file servers are mounted here:
  vcore_route.absent: []

Nobody of the core logs in on this machine:
  vcore_login.absent: []

The names of the core's services are gone:
  vcore_host.names_present:
    - addresses: {}

This host does not trust the certificate authority:
  vcore_ca.untrusted: []

# Remove the role from this machine: services, swarm, trust, names, and the states of areas. Data, authority and secrets
# stay.
include:
{%- for sls in salt["cp.list_states"]() if sls.startswith("areas.") and sls.endswith(".absent") %}
  - {{ sls }}
{%- endfor %}

This machine has left the swarm:
  vcore_swarm.left: []

The names of the core's services are gone:
  vcore_host.names_present:
    - addresses: {}

This host does not trust the certificate authority:
  vcore_ca.untrusted: []

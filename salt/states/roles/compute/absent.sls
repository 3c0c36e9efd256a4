# Remove the role from this machine: swarm, names, trust, and the states of areas. Files stay where they are. This needs
# no pillar, because the head may be gone.
include:
{%- for sls in salt["cp.list_states"]() if sls.startswith("areas.") and sls.endswith(".absent") %}
  - {{ sls }}
{%- endfor %}

This machine has left the swarm:
  vcore_swarm.parted: []

The names of the core's services are gone:
  vcore_host.names_present:
    - addresses: {}

This host does not trust the certificate authority:
  vcore_ca.untrusted: []

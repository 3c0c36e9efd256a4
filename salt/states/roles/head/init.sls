# The head: certificate authority, swarm manager, and the services of the catalogue.
include:
  - roles.node
  - roles.head.authority
  - roles.head.swarm
  - services

{%- if pillar["vcore"]["slurm"]["mode"] == "existing" %}

# The site's SLURM is its administrators': they include what is offered, and tell it to read that.
The site's SLURM is offered the compute nodes:
  vcore_slurm_existing.offered: []
{%- endif %}

Services that the site does not want are gone:
  vcore_swarm.services_absent:
    - require:
      - sls: roles.head.swarm

# Behind everything else: what runs decides what may go.
Images that no service uses are gone from the registry:
  vcore_image.pruned:
    - order: last

# The head: certificate authority, swarm manager, and the services of the catalogue.
include:
  - roles.node
  - roles.head.authority
  - roles.head.swarm
  - services
{%- for area in pillar["vcore"]["states"]["head"] %}
  - areas.{{ area }}.head
{%- endfor %}

Services that the site does not want are gone:
  vcore_swarm.services_absent:
    - require:
      - sls: roles.head.swarm

# Last, because the services that run decide which images are still needed.
Images that no service uses are gone from the registry:
  vcore_image.pruned:
    - order: last

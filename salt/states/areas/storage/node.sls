# Homes and data on nodes that use them. The file router's own folders, if it runs here, come first.
include:
  - roles.node.names
{%- if pillar["vcore"]["node"]["storage"] %}

Homes and data are there:
  vcore_storage.present:
    - require:
      - vcore_host: The services that run here have data folders
{%- else %}

No homes and data are mounted here:
  vcore_storage.absent: []
{%- endif %}

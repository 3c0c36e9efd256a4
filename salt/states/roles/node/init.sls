# Every node of the core: names, data folders, and what the services that run here want of the machine itself.
{%- set core = pillar["vcore"] %}
{%- set here = core["node"]["services"] %}

include:
  - roles.node.names
  - roles.node.storage
{%- for name in here if core["services"][name]["node_states"] %}
  - services.{{ name }}.node
{%- endfor %}
  - roles.node.logins
{%- if "file-router" not in here %}
  - roles.node.routes
{%- endif %}

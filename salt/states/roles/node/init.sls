# Every node of the core: names, data folders, and the states of areas and of services that run here.
{%- set core = pillar["vcore"] %}

include:
  - roles.node.names
{%- for area in core["states"]["node"] %}
  - areas.{{ area }}.node
{%- endfor %}
{%- for name in core["node"]["services"] if core["services"][name]["node_states"] %}
  - services.{{ name }}.node
{%- endfor %}

# Every node of the core: names, data folders, and what areas and the services that run here want of the machine itself.
{%- set core = pillar["vcore"] %}

include:
  - roles.node.names
{%- for area in core["states"]["node"] %}
  - areas.{{ area }}.node
{%- endfor %}
{%- for name in core["node"]["services"] if core["services"][name]["node_states"] %}
  - services.{{ name }}.node
{%- endfor %}

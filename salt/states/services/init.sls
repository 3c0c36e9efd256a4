# The services that the site switches on, each after the ones that it requires.
include:
{%- for name in pillar["vcore"]["services"] %}
  - services.{{ name }}
{%- else %}
  []
{%- endfor %}

# The states of each node. Roles come from the site file by minion id, never from what a minion says about itself; a
# minion that the site does not name has no `vcore` pillar and gets nothing.
base:
  '*':
{%- if pillar.get("vcore") %}
    # Every node trusts the core's authority, finds its services by name and has their data folders.
    - roles.node
    {%- for role in pillar["vcore"]["node"]["roles"] | sort(reverse=true) %}
    - roles.{{ role }}
    {%- endfor %}
{%- else %}
    []
{%- endif %}

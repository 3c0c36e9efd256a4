# A node on which the file router does not run has none of its routes; where it runs, its own states mount them.
# Last, because a container of the file router may still have files of theirs open.
{%- if "file-router" not in pillar["vcore"]["node"]["services"] %}
No routes from other file servers are mounted here:
  vcore_route.absent:
    - order: last
{%- endif %}

# The names of the core's services, and the data folders of those that run here.
{%- set core = pillar["vcore"] %}

The services of the core have names:
  vcore_host.names_present:
    - addresses: {{ core["names"] | json }}

The services that run here have data folders:
  vcore_host.directories_present:
    - directories:
        {{ core["base_directory"] }}: {owner: 0, group: 0, mode: "0755"}
        {%- for name in core["node"]["services"] %}
          {%- for volume in core["services"][name]["volumes"].values() if not volume["made_elsewhere"] %}
        {{ volume["source"] | json }}: {{ {"owner": volume["owner"], "group": volume["group"], "mode": volume["mode"]} | json }}
          {%- endfor %}
        {%- endfor %}

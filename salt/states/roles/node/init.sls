# Every node of the core: names, data folders, trust.
{%- set core = pillar["vcore"] %}

The services of the core have names:
  vcore_host.names_present:
    - addresses: {{ core["names"] | json }}

The services that run here have data folders:
  vcore_host.directories_present:
    - directories:
        {{ core["base_directory"] }}: {owner: 0, group: 0, mode: "0755"}
        {%- for service in core["services"].values() if service["node"] in (core["node"]["name"], none) %}
          {%- for volume in service["volumes"].values() %}
        {{ volume["source"] | json }}: {{ {"owner": volume["owner"], "group": volume["group"], "mode": volume["mode"]} | json }}
          {%- endfor %}
        {%- endfor %}

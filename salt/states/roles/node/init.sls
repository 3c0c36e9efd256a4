# Every node of the core: names, data folders, trust.
{%- set core = pillar["vcore"] %}
{%- set domain = core["site"]["domain"] %}
{%- set addresses = {} %}
{%- for name, service in core["services"].items() if service["node"] %}
  {%- set node = core.get("nodes", {}).get(service["node"], core["head"]) %}
  {%- do addresses.setdefault(node["address"], []).append(name ~ "." ~ domain) %}
{%- endfor %}

The services of the core have names:
  vcore_host.names_present:
    - addresses: {{ addresses | json }}

The services that run here have data folders:
  vcore_host.directories_present:
    - directories:
        {{ core["base_directory"] }}: {owner: 0, group: 0, mode: "0755"}
        {%- for service in core["services"].values() if service["node"] in (core["node"]["name"], none) %}
          {%- for volume in service["volumes"].values() %}
        {{ volume["source"] | json }}: {{ {"owner": volume["owner"], "group": volume["group"], "mode": volume["mode"]} | json }}
          {%- endfor %}
        {%- endfor %}

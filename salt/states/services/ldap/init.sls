{%- from "services/macros.jinja" import service with context %}
{{- service("ldap") }}

The directory has its base entries:
  vcore_directory.base_present:
    - require:
      - vcore_swarm: The service ldap runs

{%- from "services/macros.jinja" import service with context %}
{{- service("ldap") }}

The directory has its base entries:
  vcore_directory.base_present:
    - require:
      - vcore_swarm: The service ldap runs

The directory has the people and groups of the site:
  vcore_account.people_present:
    - require:
      - vcore_directory: The directory has its base entries

{%- from "services/macros.jinja" import service with context %}
{{- service("enrolment") }}

New machines are offered what they need to join:
  vcore_enrolment.offered:
    - require:
      - vcore_ca: The certificate authority has a root
      - vcore_host: The services that run here have data folders
    - require_in:
      - vcore_swarm: The service enrolment runs

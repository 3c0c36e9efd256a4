{%- from "services/macros.jinja" import service with context %}
{{- service("login") }}

{%- from "services/macros.jinja" import service with context %}
{%- set core = pillar["vcore"] %}
{%- set own = core["services"]["file-router"]["secrets"].values() | rejectattr("service") | list %}
{%- if "file-router" in core["node"]["services"] %}
include:
  - services.file-router.node

extend:
  # A new image has to accept the configuration, so the image has to exist before.
  The file router has its configuration:
    vcore_file_router.configured:
      - require:
        - vcore_image: The image of file-router is built
        - vcore_account: The directory has the people and groups of the site
        {%- if own %}
        - vcore_secret: The secrets of file-router exist
        {%- endif %}
      - require_in:
        - vcore_swarm: The service file-router runs
  The file router serves its configuration:
    vcore_file_router.serving:
      - require:
        - vcore_swarm: The service file-router runs
{%- endif %}
{{- service("file-router") }}

The directory has the instruments:
  vcore_file_router.instruments_present:
    - require:
      - vcore_directory: The directory has its base entries
      {%- if own %}
      - vcore_secret: The secrets of file-router exist
      {%- endif %}
    - require_in:
      - vcore_swarm: The service file-router runs

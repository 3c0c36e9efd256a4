{%- from "services/macros.jinja" import service with context %}
{{- service("slurm-controller") }}

# A new image has to accept the configuration, so the image has to exist before.
SLURM has its configuration:
  vcore_slurm.configured:
    - require:
      - vcore_host: The services that run here have data folders
      - vcore_image: The image of slurm-controller is built
      - vcore_account: The directory has the people and groups of the site
      - vcore_secret: The secrets of slurm-controller exist
    - require_in:
      - vcore_swarm: The service slurm-controller runs

SLURM goes by its configuration:
  vcore_slurm.serving:
    - require:
      - vcore_swarm: The service slurm-controller runs

{%- from "services/macros.jinja" import service with context %}
{%- set controller = "slurm-controller" in pillar["vcore"]["services"] %}
{{- service("slurm-accounting") }}

# Before the controller, which does not start if a partition's quality of service does not exist.
SLURM has the accounts of the site and the people of the directory:
  vcore_slurm_accounting.present:
    - part: first
    - require:
      - vcore_swarm: The service slurm-accounting runs
      - vcore_account: The directory has the people and groups of the site
    {%- if controller %}
    - require_in:
      - vcore_slurm: SLURM has its configuration
      - vcore_swarm: The service slurm-controller runs

# After the controller, which tells slurmdbd that there are GPUs.
SLURM has the limits of GPUs of the site:
  vcore_slurm_accounting.present:
    - part: gpus
    - require:
      - vcore_slurm_accounting: SLURM has the accounts of the site and the people of the directory
      - vcore_slurm: SLURM goes by its configuration
    {%- endif %}

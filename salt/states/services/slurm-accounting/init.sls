{%- from "services/macros.jinja" import service with context %}
{{- service("slurm-accounting") }}

SLURM has the accounts of the site and the people of the directory:
  vcore_slurm_accounting.present:
    - require:
      - vcore_swarm: The service slurm-accounting runs
      - vcore_account: The directory has the people and groups of the site
      {%- if "slurm-controller" in pillar["vcore"]["services"] %}
      # slurmctld registers the cluster, and what its nodes have beside processors and memory.
      - vcore_swarm: The service slurm-controller runs
      {%- endif %}

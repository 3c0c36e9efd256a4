# The site's SLURM is its administrators': they include what is offered, and tell it to read that.
{%- if pillar["vcore"]["slurm"]["mode"] == "existing" %}
The site's SLURM is offered the compute nodes:
  vcore_slurm_existing.offered: []
{%- endif %}

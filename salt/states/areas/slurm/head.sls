# The site's own SLURM belongs to its administrators: they include the offered files, and make SLURM read them.
{%- if pillar["vcore"]["slurm"]["mode"] == "existing" %}
The site's SLURM is offered the compute nodes:
  vcore_slurm_existing.offered: []
{%- endif %}

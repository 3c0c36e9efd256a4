"""People and groups: what may be written of them, plans, and what is carried out."""

USES = ("directory", "services")

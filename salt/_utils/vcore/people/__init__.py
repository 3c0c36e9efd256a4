"""People and groups: their settings, plans for the directory, and carrying the plans out."""

USES = ("directory", "services")

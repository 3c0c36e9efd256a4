"""Logins of people on nodes, and on hosts that are not under Salt."""

USES = ("directory", "people", "services")

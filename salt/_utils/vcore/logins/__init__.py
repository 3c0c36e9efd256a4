"""Logins of people on nodes, and on hosts that are not under Salt."""

USES = ("people", "services")

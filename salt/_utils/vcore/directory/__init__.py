"""The LDAP directory and its web page."""

USES = ("services", "swarm")

"""The LDAP directory and its web page."""

USES = ("swarm",)

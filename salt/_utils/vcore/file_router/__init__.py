"""The file router: shares by SMB and NFS, routes from other file servers, instruments."""

USES = ("directory", "people", "services", "storage", "swarm")

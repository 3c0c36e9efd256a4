"""The lab: docker-in-docker hosts with systemd on a private network of this machine (docs/lab.md)."""

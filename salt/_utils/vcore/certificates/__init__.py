"""The certificate authority of the core, its certificates, and the trust of each node."""

USES = ("services",)

"""The login host: what people read there about the cluster, and the memory that each may use."""

USES = ("storage",)

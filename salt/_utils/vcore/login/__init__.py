"""The login host: what is said there, and the memory of a person."""

USES = ("storage",)

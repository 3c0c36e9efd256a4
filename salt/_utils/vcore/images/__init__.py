"""The container images: their sources, builds and registry."""

USES = ()

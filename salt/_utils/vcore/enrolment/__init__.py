"""How new machines join the core: tokens, the bundle that they install, and the admission of their keys."""

USES = ("nodes",)

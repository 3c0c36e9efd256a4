"""How a new machine joins the core: tokens, the bundle that it joins by, and admission of its key."""

USES = ("nodes",)

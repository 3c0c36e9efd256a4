"""What is measured in the core, and when a value is bad; whatever watches it over time goes by this."""

USES = ()

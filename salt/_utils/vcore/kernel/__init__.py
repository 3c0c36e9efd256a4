"""The kernel: turns the files of a checkout into each node's pillar, and collects the core's status and checks."""

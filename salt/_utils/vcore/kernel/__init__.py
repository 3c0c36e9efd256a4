"""The kernel: from the files of a checkout to the pillar of a node, and how the core is."""

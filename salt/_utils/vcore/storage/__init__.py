"""Homes and shared data on each node."""

USES = ()

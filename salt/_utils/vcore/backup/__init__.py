"""Dumps of the core: what they take, and how it is put back."""

USES = ()

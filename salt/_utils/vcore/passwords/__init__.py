"""The password of a person: changed in all its stores, or in none."""

USES = ()

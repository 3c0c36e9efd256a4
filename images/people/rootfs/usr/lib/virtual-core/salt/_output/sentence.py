"""
A sentence for a person, without the name of a minion above it
==============================================================
"""


def output(data, **_):
    """Return what the function returned, unchanged, as text."""
    return "\n".join(str(value) for value in data.values())

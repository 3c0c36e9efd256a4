"""
A sentence for a person, without the name of a minion above it
==============================================================
"""


def output(data, **_):
    """Render what the function returned, as it is."""
    return "\n".join(str(value) for value in data.values())

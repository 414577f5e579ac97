"""Serves the universal callbacks of a render farm, live."""

#: The version of this distribution.
__version__ = "0.1.0"

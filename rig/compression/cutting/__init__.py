"""Channels and blocks taken out of a network: which belong together, how they are cut, and the check of it."""

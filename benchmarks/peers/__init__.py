"""Peers of tfdfd on the same clips and pictures in one run, each in an environment of its own; see `__main__`."""

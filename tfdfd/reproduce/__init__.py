"""Reproduction of the five source documents: their experiments, printed numbers and contradictions."""

"""Augmentation of face crops while a network trains: Keras layers, and policies that put them in order."""

from tfdfd.augment.policies import POLICIES, policy

__all__ = ["POLICIES", "policy"]

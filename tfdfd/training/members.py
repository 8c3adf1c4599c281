"""Trained networks that another training is built on."""

from __future__ import annotations

from dataclasses import dataclass

import keras

from tfdfd.models import load, spec
from tfdfd.training.recipe import Recipe
from tfdfd.weights.store import locate


@dataclass(frozen=True, eq=False)
class Member:
    """A trained network.

    Attributes:
        name: of the network in `tfdfd.models`.
        network: with its weights.
        arguments: of its builder, as its card has them.
        told: handle and digest, for the result of the run that is built on it.
    """

    name: str
    network: keras.Model
    arguments: dict
    told: dict


def members_of(recipe: Recipe, size: int, networks: tuple[str, ...]) -> list[Member]:
    """The recipe's members, one of each of `networks` and in that order, whatever the order they are given in.

    Raises:
        ValueError: there are none, or others, or they take images of another size than `size`.
    """
    example = ",".join(f"RUN_{number}" for number, _ in enumerate(networks, 1))
    wanted = " and ".join(networks)
    if not recipe.members:
        raise ValueError(
            f"{recipe.name} is built on trained networks: {wanted}. Give the folders of their runs, weights files or "
            f"handles: --set members={example}."
        )
    found = [locate(member) for member in recipe.members]
    names = [record.model for record, _ in found]
    if sorted(names) != sorted(networks):
        raise ValueError(
            f"{recipe.name} is built on {wanted}; received members={','.join(recipe.members)}, which are "
            f"{', '.join(names)}. Give --set members={example}."
        )
    for record, _ in found:
        own = (record.input_shape or spec(record.model).input_shape)[0]
        if own != size:
            raise ValueError(
                f"{record.handle} was trained at {own} pixels, and {recipe.name} is to take {size}: set size={own}, or "
                "give members of that size."
            )
    by_name = dict(zip(names, found, strict=True))
    return [_member(*by_name[name]) for name in networks]


def _member(record, path):
    told = {"handle": record.handle, "sha256": record.sha256}
    return Member(record.model, load(record, path), dict(record.arguments), told)

"""Kinds of networks that a bundle has in turn: what looks at other things errs less alike.

The first two ship; the third tells maps better, densities as well, and costs half as much again.

Networks of one kind from other random weights err almost as the first one does; ``docs/direct.md``
has the figures.
"""

from __future__ import annotations

from dataclasses import dataclass

from model_server.direct.network import Shape
from model_server.direct.training import (
    Loss,
    site_and_sum_loss,
    site_loss,
    site_sum_and_map_loss,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Kind:
    """A network's sizes, what it looks at, and what it is judged by in training."""

    words: str
    shape: Shape
    loss: Loss


KINDS = (
    Kind(
        words="neighbours within 5 angstrom, eight properties of an element",
        shape=Shape(),
        loss=site_loss,
    ),
    Kind(
        words="neighbours within 4 angstrom, distances over covalent radii too, twenty properties",
        shape=Shape(species=12, dropout_inside=0.05, properties=20, radii=True, reach_A=4.0),
        loss=site_and_sum_loss,
    ),
    Kind(
        words=(
            "neighbours within 5 angstrom, distances over covalent radii too, twenty properties, "
            "judged by maps of S(|Q|,E) too"
        ),
        shape=Shape(species=16, dropout_inside=0.05, properties=20, radii=True, reach_A=5.0),
        loss=site_sum_and_map_loss,
    ),
)

"""An equivariant network that spreads the modes of every atom over energy bins.

Atoms pass messages along the vectors to their neighbours. Features are scalars, vectors and
tensors of rank two (e3nn's irreducible representations); what is read from them is invariant, so a
turned, shifted, mirrored or repeated crystal gives the same densities.

References
----------
M. Geiger and T. Smidt, arXiv:2207.09453 (2022); Z. Chen et al., Adv. Sci. 8, 2004214 (2021).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import torch
from e3nn import o3
from e3nn.math import soft_one_hot_linspace
from torch import Tensor, nn

from model_server.direct.bins import BINS
from model_server.direct.graph import REACH_A, Graph
from simulations.arrays import FloatArray

if TYPE_CHECKING:
    from pymatgen.core import Element

ELEMENTS = 100
"""Atomic numbers that the network has a place for, 1 to this."""
_EDGES_AT_A_TIME = 40_000  # without gradients: 50 MB of messages
_TYPICAL_NEIGHBOURS = 35.0
_Features = tuple[Tensor, Tensor]  # of rank one and two


@dataclass(frozen=True, kw_only=True, slots=True)
class Shape:
    """Sizes of a network."""

    channels: int = 48  # scalars of an atom
    tensors: int = 16  # its vectors, and its tensors of rank two
    basis: int = 10
    radial: int = 48
    species: int = 24
    readout: int = 128
    bins: int = BINS
    dropout: float = 0.1
    dropout_inside: float = 0.0  # of what atoms know and heard, before they take it in
    properties: int = 8  # of an element, the first of those in the table
    radii: bool = False  # distances are also told over the sum of both covalent radii
    reach_A: float = REACH_A

    def as_dict(self) -> dict[str, float]:
        """For a card."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Batch:
    """Graphs of several crystals as one."""

    numbers: Tensor  # (atoms,) int64
    crystal: Tensor  # (atoms,) int64
    room: Tensor  # (atoms, 1) volume per atom, made to be of order one
    sender: Tensor  # (edges,) int64
    receiver: Tensor  # (edges,) int64
    basis: Tensor  # (edges, basis), twice as many with radii
    vector: Tensor  # (edges, 3, 1) spherical harmonics of degree 1
    tensor: Tensor  # (edges, 5, 1) of degree 2
    crystals: int


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Prepared:
    """A graph with what is computed of it once."""

    numbers: Tensor
    room: float
    sender: Tensor
    receiver: Tensor
    basis: Tensor
    vector: Tensor
    tensor: Tensor


def prepared(graph: Graph, shape: Shape) -> Prepared:
    """Radial functions and spherical harmonics of a graph."""
    vector = torch.as_tensor(graph.vector_A, dtype=torch.float32)
    length = vector.norm(dim=1)
    basis = soft_one_hot_linspace(
        length, 0.0, shape.reach_A, shape.basis, basis="smooth_finite", cutoff=True
    )
    basis = basis * shape.basis**0.5
    if shape.radii:
        basis = torch.cat([basis, _over_radii(graph, length, shape)], dim=1)
    harmonics = o3.spherical_harmonics([1, 2], vector, normalize=True, normalization="component")
    return Prepared(
        numbers=torch.as_tensor(graph.numbers, dtype=torch.int64),
        room=float(np.log(graph.volume_A3 / 16.0)),
        sender=torch.as_tensor(graph.sender),
        receiver=torch.as_tensor(graph.receiver),
        basis=basis,
        vector=harmonics[:, :3, None],
        tensor=harmonics[:, 3:, None],
    )


def _over_radii(graph: Graph, length: Tensor, shape: Shape) -> Tensor:
    """Radial functions of the distance over the sum of radii; they vanish at the reach."""
    own = torch.as_tensor(covalent_radii_A()[graph.numbers], dtype=torch.float32)
    apart = own[torch.as_tensor(graph.sender)] + own[torch.as_tensor(graph.receiver)]
    found = soft_one_hot_linspace(
        length / apart, 0.5, 2.5, shape.basis, basis="gaussian", cutoff=False
    )
    fade = 0.5 * (1 + torch.cos(np.pi * length / shape.reach_A))
    return found * fade[:, None] * shape.basis**0.5


def joined(graphs: list[Prepared]) -> Batch:
    """One batch of several graphs."""
    counts = [len(g.numbers) for g in graphs]
    starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
    return Batch(
        numbers=torch.cat([g.numbers for g in graphs]),
        crystal=torch.repeat_interleave(torch.arange(len(graphs)), torch.tensor(counts)),
        room=torch.cat([torch.full((n, 1), g.room) for n, g in zip(counts, graphs, strict=True)]),
        sender=torch.cat([g.sender + int(s) for g, s in zip(graphs, starts, strict=True)]),
        receiver=torch.cat([g.receiver + int(s) for g, s in zip(graphs, starts, strict=True)]),
        basis=torch.cat([g.basis for g in graphs]),
        vector=torch.cat([g.vector for g in graphs]),
        tensor=torch.cat([g.tensor for g in graphs]),
        crystals=len(graphs),
    )


@cache
def element_properties() -> FloatArray:
    """What a table of the elements says, (ELEMENTS + 1, 20), each of mean 0 and width 1.

    Mass, its inverse root (energies go with it), electronegativity, radius, group, row, share of
    the valence shell, melting point. With them an element that was rare in training resembles its
    neighbours in the table. Then, read where a shape asks for more than eight: outer electrons of
    s, p, d and f kind, covalent, van der Waals and mean ionic radius, bulk modulus and molar
    volume of the element, energy that takes an electron away, highest and lowest common charge.
    """
    import warnings

    from pymatgen.core import Element

    rows = np.full((ELEMENTS + 1, 20), np.nan)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # elements without an electronegativity, and the like
        for number in range(1, ELEMENTS + 1):
            one = Element.from_Z(number)
            mass = atomic_masses()[number]
            radius = one.atomic_radius_calculated or one.atomic_radius
            rows[number] = (
                np.log(mass),
                mass**-0.5,
                one.X,
                np.nan if radius is None else float(radius),
                one.group,
                one.row,
                one.mendeleev_no if one.mendeleev_no is not None else np.nan,
                _log(one.melting_point),
                *_outer_electrons(one),
                covalent_radii_A()[number],
                np.nan if one.van_der_waals_radius is None else float(one.van_der_waals_radius),
                float(one.average_ionic_radius) or np.nan,
                _log(one.bulk_modulus),
                _log(one.molar_volume),
                _log(one.ionization_energy),
                max(one.common_oxidation_states, default=0),
                min(one.common_oxidation_states, default=0),
            )
    mean, width = np.nanmean(rows, axis=0), np.nanstd(rows, axis=0)
    return np.nan_to_num((rows - mean) / width)


def _log(value: float | None) -> float:
    return float("nan") if value is None else float(np.log(float(value)))


def _outer_electrons(element: Element) -> list[int]:
    """Those of s and p kind in the outermost shell, of d in the one below, of f two below."""
    shells = element.full_electronic_structure
    top = max(shell for shell, *_ in shells)
    below = {"s": 0, "p": 0, "d": 1, "f": 2}
    return [
        sum(count for shell, kind, count in shells if kind == one and shell == top - down)
        for one, down in below.items()
    ]


@cache
def atomic_masses() -> FloatArray:
    """By atomic number, (ELEMENTS + 1,) daltons; 0 for no element."""
    from pymatgen.core import Element

    return np.array([0.0, *(float(Element.from_Z(z).atomic_mass) for z in range(1, ELEMENTS + 1))])


@cache
def covalent_radii_A() -> FloatArray:
    """By atomic number, (ELEMENTS + 1,); 2 where none was measured."""
    from pymatgen.analysis.molecule_structure_comparator import CovalentRadius
    from pymatgen.core import Element

    known = [
        CovalentRadius.radius.get(Element.from_Z(z).symbol, 2.0) for z in range(1, ELEMENTS + 1)
    ]
    return np.array([2.0, *known])


class _Messages(nn.Module):
    """What neighbours tell an atom; weights of all paths come from distance and both species.

    Vectors are (atoms, 3, t), tensors (atoms, 5, t), components in e3nn's order.
    """

    def __init__(self, shape: Shape, *, first: bool, last: bool) -> None:
        super().__init__()
        c, t = shape.channels, shape.tensors
        self.first, self.last = first, last
        self.sizes = [c] + ([] if last else [t, t]) + ([] if first else [t, t])
        if not (first or last):
            self.sizes += [t, t]
        self.own = [c] if last else [c, t, t]
        self.scalars = nn.Linear(c, sum(self.own), bias=False)
        self.enter = nn.Linear(shape.basis * (1 + shape.radii), shape.radial, bias=False)
        self.weights = nn.Linear(shape.radial, sum(self.sizes), bias=False)
        self.tell = nn.Linear(c, shape.radial, bias=False)
        self.hear = nn.Linear(c, shape.radial, bias=False)

    def forward(self, h: Tensor, v: _Features | None, batch: Batch) -> tuple[Tensor, _Features]:
        """Scalars (atoms, heard) and, but for the last, vectors and tensors."""
        atoms, t = len(h), self.sizes[-1]
        heard = self.sizes[0] + (0 if self.first else 2 * t)
        scalars = h.new_zeros(atoms, heard)
        vectors, tensors = h.new_zeros(atoms, 3, t), h.new_zeros(atoms, 5, t)
        told = self.tell(h), self.hear(h), self.scalars(h)
        edges = len(batch.sender)
        step = max(1, edges if torch.is_grad_enabled() else _EDGES_AT_A_TIME)
        for start in range(0, edges, step):
            part = slice(start, start + step)
            receiver = batch.receiver[part]
            one, two, three = self._of(told, v, batch, part)
            scalars = scalars.index_add(0, receiver, one)
            if two is not None and three is not None:
                vectors = vectors.index_add(0, receiver, two)
                tensors = tensors.index_add(0, receiver, three)
        norm = _TYPICAL_NEIGHBOURS**-0.5
        return scalars * norm, (vectors * norm, tensors * norm)

    def _of(
        self, told: tuple[Tensor, Tensor, Tensor], v: _Features | None, batch: Batch, part: slice
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        sender, receiver = batch.sender[part], batch.receiver[part]
        first, second = batch.vector[part], batch.tensor[part]
        tell, hear, own = told
        # distance and pair multiply, so that the weights vanish at the reach
        pair = 1 + torch.tanh(tell.index_select(0, sender) + hear.index_select(0, receiver))
        radial = self.weights(nn.functional.silu(self.enter(batch.basis[part])) * pair)
        R = iter(radial.split(self.sizes, dim=1))
        s = iter(own.index_select(0, sender).split(self.own, dim=1))
        scalars = [next(R) * next(s)]
        vectors = tensors = None
        if not self.last:
            vectors = (next(R) * next(s))[:, None] * first
            tensors = (next(R) * next(s))[:, None] * second
        if v is not None:
            u, w = v[0].index_select(0, sender), v[1].index_select(0, sender)
            scalars += [next(R) * (u * first).sum(dim=1), next(R) * (w * second).sum(dim=1)]
            if vectors is not None and tensors is not None:
                vectors = torch.addcmul(vectors, next(R)[:, None], u)
                tensors = torch.addcmul(tensors, next(R)[:, None], w)
        return torch.cat(scalars, dim=1), vectors, tensors


class _Update(nn.Module):
    """Atoms take in what they heard: scalars of products of features, features gated by them."""

    def __init__(self, shape: Shape, *, first: bool, last: bool) -> None:
        super().__init__()
        c, t = shape.channels, shape.tensors
        self.sizes = [c] if last else [c, t, t]
        inputs = 2 * c + (0 if first else 2 * t) + (0 if last else 2 * t)
        if not last:
            self.mixed = nn.ModuleList([nn.Linear(t, 2 * t, bias=False) for _ in range(2)])
        self.inside = nn.Dropout(shape.dropout_inside)
        self.scalars = nn.Sequential(
            nn.Linear(inputs, 2 * c), nn.SiLU(), nn.Linear(2 * c, sum(self.sizes))
        )

    def forward(
        self, h: Tensor, v: _Features | None, heard: Tensor, new: _Features
    ) -> tuple[Tensor, _Features | None]:
        known, left = [h, heard], []
        if len(self.sizes) > 1:
            for mixed, one in zip(self.mixed, new, strict=True):
                a, b = mixed(one).chunk(2, dim=2)
                known.append((a * b).sum(dim=1) / one.shape[1] ** 0.5)
                left.append(a)
        found = self.scalars(self.inside(torch.cat(known, dim=1))).split(self.sizes, dim=1)
        h = h + found[0]
        if not left:
            return h, None
        gated = [a * torch.sigmoid(gate)[:, None] for a, gate in zip(left, found[1:], strict=True)]
        if v is not None:
            gated = [old + more for old, more in zip(v, gated, strict=True)]
        return h, (gated[0], gated[1])


class SiteNetwork(nn.Module):
    """Structure in, spread of every atom's modes over energy bins out."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        c = shape.channels
        table = element_properties()[:, : shape.properties]
        properties = torch.as_tensor(table, dtype=torch.float32)
        self.register_buffer("properties", properties, persistent=False)
        self.properties: Tensor
        self.species = nn.Embedding(ELEMENTS + 1, shape.species)
        nn.init.normal_(self.species.weight, std=0.3)
        self.enter = nn.Sequential(
            nn.Linear(shape.species + properties.shape[1] + 1, 2 * c),
            nn.SiLU(),
            nn.Linear(2 * c, c),
        )
        self.messages = nn.ModuleList(
            [
                _Messages(shape, first=True, last=False),
                _Messages(shape, first=False, last=False),
                _Messages(shape, first=False, last=True),
            ]
        )
        self.updates = nn.ModuleList(
            [
                _Update(shape, first=True, last=False),
                _Update(shape, first=False, last=False),
                _Update(shape, first=False, last=True),
            ]
        )
        self.latent = nn.Sequential(nn.Linear(2 * c, shape.readout), nn.SiLU())
        self.head = nn.Sequential(
            nn.Dropout(shape.dropout),
            nn.Linear(shape.readout, shape.readout),
            nn.SiLU(),
            nn.Dropout(shape.dropout),
            nn.Linear(shape.readout, shape.bins),
        )

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Logarithms of shares (atoms, bins), and what they were read from (atoms, readout)."""
        known = torch.cat(
            [self.species(batch.numbers), self.properties[batch.numbers], batch.room], dim=1
        )
        h = first = self.enter(known)
        v: _Features | None = None
        for messages, update in zip(self.messages, self.updates, strict=True):
            heard, new = messages(h, v, batch)
            h, v = update(h, v, heard, new)
        latent = self.latent(torch.cat([first, h], dim=1))
        return torch.log_softmax(self.head(latent), dim=1), latent


def mean_over_crystals(values: Tensor, batch: Batch) -> Tensor:
    """Mean over the atoms of each crystal, (crystals, ...)."""
    total = values.new_zeros(batch.crystals, values.shape[1]).index_add(0, batch.crystal, values)
    atoms = torch.bincount(batch.crystal, minlength=batch.crystals).to(values.dtype)
    return total / atoms[:, None]

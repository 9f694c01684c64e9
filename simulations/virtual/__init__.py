"""Virtual experiments of known truth; shares no code with fold or likelihood."""

from simulations.virtual.background import SmoothParts, smooth_parts
from simulations.virtual.can import VirtualCan
from simulations.virtual.choice import VirtualSection
from simulations.virtual.experiment import VirtualExperiment
from simulations.virtual.lattice import VirtualLattice
from simulations.virtual.sampling import VirtualChunk, lattice_of, simulate_chunk
from simulations.virtual.spread import Spread

__all__ = [
    "SmoothParts",
    "Spread",
    "VirtualCan",
    "VirtualChunk",
    "VirtualExperiment",
    "VirtualLattice",
    "VirtualSection",
    "lattice_of",
    "simulate_chunk",
    "smooth_parts",
]

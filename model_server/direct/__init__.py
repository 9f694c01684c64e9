"""Networks that read site densities of states from a structure alone, and how far they are off."""

from model_server.direct.bins import energy_edges_meV, on_literature_points
from model_server.direct.bundle import (
    DirectBundle,
    DirectBundleError,
    load_direct_bundle,
    load_progressed,
    save_progressed,
)
from model_server.direct.calibration import (
    LEVEL,
    Calibration,
    Judged,
    band_edges_meV,
    calibrate,
    covered,
)
from model_server.direct.kinds import KINDS, Kind
from model_server.direct.members import MemberDensities, ask_members, graph_of
from model_server.direct.network import Shape, SiteNetwork
from model_server.direct.training import Lesson, Progressed, Recipe, train_member

__all__ = [
    "Calibration",
    "DirectBundle",
    "DirectBundleError",
    "Judged",
    "KINDS",
    "Kind",
    "LEVEL",
    "Lesson",
    "MemberDensities",
    "Progressed",
    "Recipe",
    "Shape",
    "SiteNetwork",
    "ask_members",
    "band_edges_meV",
    "calibrate",
    "covered",
    "energy_edges_meV",
    "graph_of",
    "load_direct_bundle",
    "load_progressed",
    "on_literature_points",
    "save_progressed",
    "train_member",
]

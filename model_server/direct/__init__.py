"""Networks that read site densities of states from a structure alone, and how far they are off."""

from model_server.direct.bands import LEVEL, Bands, band_edges_meV
from model_server.direct.bins import energy_edges_meV, on_literature_points
from model_server.direct.bundle import (
    DirectBundle,
    DirectBundleError,
    load_direct_bundle,
    load_progressed,
    save_progressed,
)
from model_server.direct.calibration import Calibration, Judged, calibrate, covered
from model_server.direct.kinds import KINDS, Kind
from model_server.direct.members import MemberDensities, ask_members, graph_of
from model_server.direct.network import Shape, SiteNetwork
from model_server.direct.spring_bundle_file import (
    SpringBundle,
    SpringBundleError,
    load_spring_bundle,
)
from model_server.direct.springs import REACH_A as SPRING_REACH_A
from model_server.direct.springs import (
    Bonds,
    SpringLesson,
    SpringRecipe,
    SpringShape,
    explained,
    site_stiffness,
    train_springs,
)
from model_server.direct.training import Lesson, Progressed, Recipe, train_member

__all__ = [
    "Bands",
    "Bonds",
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
    "SPRING_REACH_A",
    "Shape",
    "SiteNetwork",
    "SpringBundle",
    "SpringBundleError",
    "SpringLesson",
    "SpringRecipe",
    "SpringShape",
    "ask_members",
    "band_edges_meV",
    "calibrate",
    "covered",
    "energy_edges_meV",
    "explained",
    "graph_of",
    "load_direct_bundle",
    "load_progressed",
    "load_spring_bundle",
    "on_literature_points",
    "save_progressed",
    "site_stiffness",
    "train_member",
    "train_springs",
]

"""The reference experiment on germanium with a set-up that is doubted."""

from simulations.likelihood import MissettingSection
from steering.experiment import Measurement, build_measurement, load_experiment
from tests.conftest import ROOT


def doubted_germanium() -> Measurement:
    """Orientation, lattice, Ei and time zero may be off by what is usual: six ways."""
    section = MissettingSection(fitted=True)
    experiment = load_experiment(ROOT / "examples" / "ge-arcs.yaml")
    changed = experiment.model_copy(update={"missetting": section})
    return build_measurement(changed, ROOT / "examples")

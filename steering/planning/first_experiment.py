"""An experiment for a crystal of which there is nothing but its structure."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from simulations.crystal import builtin_crystals, read_crystal
from simulations.dynamics import energies_of_sets, read_force_constants
from simulations.errors import InputError, NoForceConstantsError
from simulations.prior import load_prior_record, stored_priors
from simulations.reciprocal import EnergySection
from steering.experiment import (
    Experiment,
    build_measurement,
    checked_experiment,
    load_experiment,
    prior_beside,
)

CUTOFF_A = 5.0  # where no prior says it
ABOVE_TOP = 1.25  # of the energy axis over the highest mode
BIN_SHARE = 0.0125  # of the lowest Ei: a third of a usual resolution at E = 0
MOST_BINS = 160
VOXELS_PER_RADIUS = 3.0
USUAL_SAMPLE = {"u": (1.0, 1.0, 0.0), "v": (0.0, 0.0, 1.0), "temperature_K": 300.0}


def planned_experiment(
    structure: str | None = None,
    *,
    experiment: Path | None = None,
    instrument: str | None = None,
    ei_meV: Sequence[float] | None = None,
    prior: str | None = None,
    sample: Mapping[str, Any] | None = None,
    points: Sequence[Mapping[str, Any] | None] | None = None,
    half_width_rlu: float | None = None,
    free: int | None = None,
    motion: Mapping[str, Any] | None = None,
    relative_sigma: float | None = None,
) -> tuple[Experiment, Path]:
    """The experiment that a plan is for: composed for a structure, or a file with some changes.

    Parameters
    ----------
    structure : str, optional
        A builtin name or a file; absent with ``experiment``.
    experiment : Path, optional
        An experiment file that says all that is not given here.
    instrument : str, optional
    ei_meV : sequence of float, optional
        Incident energies that are compared; of a file its own.
    prior : str, optional
        As :func:`prior_of` takes it.
    sample, motion : mapping, optional
        Fields of these sections.
    points : sequence, optional
        Of the path, ``label`` and ``hkl``, None where it breaks; the standard path by default.
    half_width_rlu, free, relative_sigma : optional
        Radius of the tubes (0.1), parameters that are targeted (6), wanted sigma over size (0.05).

    Returns
    -------
    Experiment, Path
        And the folder that its files are named from.

    Raises
    ------
    InputError
        If something is missing, given twice, or makes no sense.
    """
    sample, motion = dict(sample or {}), dict(motion or {})
    if experiment is not None:
        refused = {"--path": points, "--prior": prior, "STRUCTURE": structure, "--free": free}
        for name, value in refused.items():
            if value is not None:
                raise InputError(
                    f"{name} is given beside --experiment, which says it. Leave it out."
                )
        found = load_experiment(experiment)
        changes: dict[str, dict[str, object]] = {"sample": sample, "motion": motion}
        changes["instrument"] = {} if instrument is None else {"name": instrument}
        changes["targets"] = {} if relative_sigma is None else {"relative_sigma": relative_sigma}
        changes["path"] = {} if half_width_rlu is None else {"half_width_rlu": half_width_rlu}
        raw = found.model_dump()
        for section, values in changes.items():
            raw[section] |= values
        return checked_experiment(raw, name=experiment.name), experiment.parent
    if structure is None or instrument is None or not ei_meV:
        raise InputError(
            "STRUCTURE, --instrument and --ei are expected, or --experiment FILE. For example: "
            "beamsteer plan germanium --instrument ARCS --ei 30,40,60 --psi -90:90"
        )
    made = first_experiment(
        structure,
        instrument=instrument,
        ei_meV=ei_meV,
        prior=prior_of(structure, prior),
        sample=USUAL_SAMPLE | sample,
        points=points,
        half_width_rlu=0.1 if half_width_rlu is None else half_width_rlu,
        free=6 if free is None else free,
        motion=motion,
        relative_sigma=0.05 if relative_sigma is None else relative_sigma,
    )
    return made, Path()


def prior_of(structure: str, given: str | None) -> str | None:
    """Prior of a crystal: as given, stored, or beside its file; None: about its force constants.

    Raises
    ------
    InputError
        If there is none, and no force constants to put a box around; says how to make one.
    """
    if given is not None:
        if given in stored_priors() or Path(given).is_file():
            return given
        raise InputError(
            f"--prior is {given!r}; expected one of {', '.join(stored_priors())}, or a file as "
            "`beamsteer prior` writes it. Correct it."
        )
    if structure in stored_priors():
        return structure
    beside = prior_beside(structure)
    if beside is not None:
        return str(beside)
    try:
        read_force_constants(structure)
    except NoForceConstantsError as error:
        raise InputError(
            f"{structure}: no prior is stored or lies beside it (prior.yaml), and it has no force "
            "constants; expected something to plan from. Make one from universal force fields, in "
            f"minutes: beamsteer prior {structure} -o prior.yaml; then give --prior prior.yaml"
        ) from error
    return None


def first_experiment(
    structure: str,
    *,
    instrument: str,
    ei_meV: Sequence[float],
    prior: str | None,
    sample: Mapping[str, Any],
    points: Sequence[Mapping[str, Any] | None] | None,
    half_width_rlu: float,
    free: int,
    motion: Mapping[str, Any],
    relative_sigma: float,
) -> Experiment:
    """Compose an experiment, with an energy axis that ends above the highest mode.

    Files are named from the working folder.

    Parameters
    ----------
    structure : str
        A builtin name or a file.
    instrument : str
    ei_meV : sequence of float
        Incident energies that are compared.
    prior : str or None
        As ``prior_of`` gives it.
    sample : mapping
        Fields of the sample section beside the structure: u, v, temperature_K.
    points : sequence, optional
        Of the path, ``label`` and ``hkl``, None where it breaks; the standard path by default.
    half_width_rlu : float
        Radius of the tubes.
    free : int
        Parameters that are targeted.
    motion : mapping
        Fields of the motion section.
    relative_sigma : float
        Wanted sigma over size.
    """
    if structure not in builtin_crystals() and not os.path.exists(structure):
        raise InputError(
            f"structure is {structure!r}; expected one of {', '.join(builtin_crystals())}, or a "
            "file (CIF, POSCAR, phonopy.yaml). Correct it."
        )
    read_crystal(structure)
    cutoff = CUTOFF_A if prior is None else load_prior_record(prior).cutoff_A
    highest = max(ei_meV)
    raw = {
        "title": f"{Path(structure).stem} on {instrument}",
        "sample": {"structure": structure, **sample},
        "instrument": {"name": instrument, "ei_meV": highest},
        "path": {
            "points": "seekpath" if points is None else list(points),
            "half_width_rlu": half_width_rlu,
            "voxel_rlu": half_width_rlu / VOXELS_PER_RADIUS,
            "energy": {"min_meV": 0.0, "max_meV": 0.95 * highest, "bins": 10},
        },
        "parameters": {"cutoff_A": cutoff, "free": free, "prior": prior},
        "motion": dict(motion),
        "targets": {"relative_sigma": relative_sigma},
    }
    experiment = checked_experiment(raw, name="plan")
    rough = build_measurement(experiment, Path())
    q = rough.path.centres_hkl() @ rough.crystal.conventional_reciprocal
    sets = np.stack([rough.model.values, rough.prior.mean])
    top = ABOVE_TOP * float(energies_of_sets(rough.model, q, sets).max())
    top = min(0.95 * highest, top) if top > 0 else 0.95 * highest
    bins = min(MOST_BINS, max(20, math.ceil(top / (BIN_SHARE * min(ei_meV)))))
    energy = EnergySection(min_meV=0.0, max_meV=round(top, 3), bins=bins)
    return experiment.model_copy(
        update={"path": experiment.path.model_copy(update={"energy": energy})}
    )

"""What force fields say beforehand: the box of force constants and its file."""

from simulations.prior.box import (
    BoxPrior,
    PriorRecord,
    PriorRejectsAllError,
    PriorSample,
    member_force_constants,
    prior_from_members,
)
from simulations.prior.box_file import load_prior, load_prior_record, stored_priors, write_prior
from simulations.prior.force_field import (
    FORCE_FIELDS,
    FROM_FILE,
    ForceFieldPhonons,
    ForceFieldUnavailableError,
    STABLE_ABOVE_meV,
    default_supercell,
    force_field_phonons,
)

__all__ = [
    "BoxPrior",
    "FORCE_FIELDS",
    "FROM_FILE",
    "ForceFieldPhonons",
    "ForceFieldUnavailableError",
    "PriorRecord",
    "PriorRejectsAllError",
    "PriorSample",
    "STABLE_ABOVE_meV",
    "default_supercell",
    "force_field_phonons",
    "load_prior",
    "load_prior_record",
    "member_force_constants",
    "prior_from_members",
    "stored_priors",
    "write_prior",
]

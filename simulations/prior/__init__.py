"""What force fields say beforehand: the box of force constants and its file."""

from simulations.prior.box import BoxPrior, PriorRejectsAllError, PriorSample
from simulations.prior.box_file import load_prior, load_prior_record, stored_priors, write_prior
from simulations.prior.force_field import (
    FORCE_FIELDS,
    FROM_FILE,
    ForceFieldPhonons,
    ForceFieldUnavailableError,
    STABLE_ABOVE_meV,
    default_supercell,
    force_field_phonons,
    versions_of,
)
from simulations.prior.member_file import member_path, read_member, write_member
from simulations.prior.record import PriorRecord, member_force_constants, prior_from_members
from simulations.prior.stable_sets import nearest_stable

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
    "member_path",
    "nearest_stable",
    "prior_from_members",
    "read_member",
    "stored_priors",
    "versions_of",
    "write_member",
    "write_prior",
]

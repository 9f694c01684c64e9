"""Whether a run that is not trusted is to be blamed on its alignment, before the model is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from simulations.crystal import Crystal
from simulations.errors import InputError
from simulations.progress import Progress
from steering.experiment import Experiment
from steering.report.alignment_report import AlignmentReport, align_files
from steering.report.check import alarm

MOST_FILES = 12  # that are looked at, spread over the scan


@dataclass(frozen=True, kw_only=True, slots=True)
class AlignmentVerdict:
    """What the elastic peaks of a run say of its set-up."""

    code: Literal["off", "agrees", "unknown"]
    words: tuple[str, ...]  # the finding first, then the evidence

    def as_dict(self) -> dict[str, Any]:
        """For machines."""
        return {"code": self.code, "words": list(self.words)}


def alignment_first(
    files: Sequence[Path],
    experiment: Experiment,
    crystal: Crystal,
    *,
    psi_deg: float | None = None,
    progress: Progress | None = None,
) -> AlignmentVerdict:
    """Look at the elastic peaks of recorded files, and say whether the set-up explains a misfit.

    Parameters
    ----------
    files : sequence of Path
        Of the run; at most ``MOST_FILES``, spread over it, are looked at.
    experiment : Experiment
        What the run was folded with.
    crystal : Crystal
    psi_deg : float, optional
        For files without a psi.
    progress : callable, optional
        Called with (message, fraction).
    """
    step = max(1, -(-len(files) // MOST_FILES))
    try:
        report = align_files(
            list(files)[::step], crystal, experiment=experiment, psi_deg=psi_deg, progress=progress
        )
    except InputError as error:
        return _unknown(str(error))
    return verdict_of(report)


def verdict_of(report: AlignmentReport) -> AlignmentVerdict:
    """What a report says in a word, with its evidence."""
    disagree = {alarm(check) for check in report.checks if check.agrees is False}
    said = ("another plane is horizontal", "the logged angle turns", "Ei of")
    off = tuple(one for one in report.alarms if one in disagree or one.startswith(said))
    if off:
        return AlignmentVerdict(
            code="off",
            words=(
                "The alignment is wrong, so nothing else can be told: correct it before you look "
                "for physics.",
                *off,
            ),
        )
    told = [c for c in report.checks if c.agrees and c.quantity in ("psi offset", "gl", "gs")]
    if not told:
        return _unknown(*report.refusals)
    found = ", ".join(
        f"{c.quantity} {c.found - (c.expected or 0.0):+.2f} \u00b1 {c.sigma:.2g}" for c in told
    )
    return AlignmentVerdict(
        code="agrees",
        words=(
            "The elastic peaks agree with the alignment: it is the model that does not explain "
            "the data.",
            f"off by {found} degrees",
        ),
    )


def _unknown(*reasons: str) -> AlignmentVerdict:
    return AlignmentVerdict(
        code="unknown",
        words=(
            "Whether the alignment is right cannot be told from these files: check u, v and the "
            "psi offset before you look for physics.",
            *reasons,
        ),
    )

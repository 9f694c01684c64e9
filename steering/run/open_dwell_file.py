"""What has come of a dwell that is still open: written by its fold worker, read by ``serve``.

One small file for each run, written anew every few seconds and removed when the dwell closes; one
that its worker left behind grows old, and says of what time it is. Nothing is estimated from it.
"""

from __future__ import annotations

import contextlib
import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import structlog
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save  # pyright: ignore[reportUnknownVariableType]

from consumers.state import file_name

log = structlog.get_logger()

FOLDER = "open-dwells"  # in a state folder
LARGEST_BYTES = 100_000_000
_safe_open: Any = safe_open  # says nothing of its types
_save: Any = save


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class OpenDwellView:
    """An open dwell as far as it has come."""

    job: str
    chunk: str
    psi_deg: float | None  # mean of its log so far; None: not known yet
    start_ns: int  # of the dwell, since the Unix epoch
    newest_ns: int  # of what had come when it was looked at, by the clock of the stream
    looked_ns: int  # when it was looked at, by the clock of the worker
    read: int  # neutrons that came
    folded: int  # of those, in the cells of the path
    waiting: int  # neutrons that came and are not in ``counts`` yet
    rate_per_s: float | None  # neutrons per second, of the last seconds
    charge_coulomb: float | None  # proton charge so far; None: it is not logged
    beam_current_microampere: float | None  # of the last seconds
    temperature_K: float | None  # newest sample
    note: str | None  # why nothing is folded
    counts: NDArray[np.uint32]  # (path_bins, energy_bins)


def open_dwell_path(state: Path, partition: int, run: str) -> Path:
    """Where it lies in a state folder."""
    return state / FOLDER / f"{partition}.{file_name(run)}.safetensors"


class OpenDwellFile:
    """The file of one run; a disk that is full is no reason to end.

    Parameters
    ----------
    path : Path
        Of :func:`open_dwell_path`.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._failed = path, False

    def write(self, view: OpenDwellView) -> None:
        """Put it in place of the one before, in one step."""
        told = {f.name: getattr(view, f.name) for f in fields(view) if f.name != "counts"}
        content = _save({"counts": view.counts}, metadata={"open_dwell": json.dumps(told)})
        partial = self._path.with_suffix(".partial")
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            partial.write_bytes(content)
            partial.replace(self._path)
        except OSError as error:
            with contextlib.suppress(OSError):
                partial.unlink(missing_ok=True)
            if not self._failed:
                log.warning("open_dwell_not_written", reason=str(error))
            self._failed = True
        else:
            self._failed = False

    def remove(self) -> None:
        """The dwell is closed."""
        with contextlib.suppress(OSError):
            self._path.unlink(missing_ok=True)


def read_open_dwell(path: Path) -> OpenDwellView | None:
    """The open dwell of a file; None where there is none, or nothing that can be read."""
    try:
        if path.stat().st_size > LARGEST_BYTES:
            return None
        with _safe_open(path, framework="numpy") as file:
            told = json.loads(file.metadata()["open_dwell"])
            counts = np.asarray(file.get_tensor("counts"))
        view = OpenDwellView(**told, counts=counts)
    except (OSError, SafetensorError, ValueError, TypeError, KeyError):
        return None
    return view if counts.ndim == 2 and counts.dtype == np.uint32 else None


def open_dwell_words(view: OpenDwellView) -> dict[str, Any]:
    """All of it but the counts."""
    told = asdict(view)
    del told["counts"]
    return told

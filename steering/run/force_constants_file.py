"""The posterior mean as force constants that phonopy reads, as the text of its two files."""

from __future__ import annotations

import io
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import structlog

from simulations.arrays import FloatArray
from simulations.dynamics import ForceConstantModel, PhonopyFolder
from simulations.errors import InputError

_EPOCH = (1980, 1, 1, 0, 0, 0)  # the same files have the same bytes

log = structlog.get_logger()


class PhonopyTexts:
    """Makes ``phonopy.yaml`` and ``FORCE_CONSTANTS`` of sets of parameters.

    The supercell is found once, of the first set.

    Parameters
    ----------
    model : ForceConstantModel
        With the parameters free.
    """

    def __init__(self, model: ForceConstantModel) -> None:
        self._model = model
        self._folder: PhonopyFolder | None = None

    def of(self, values: FloatArray) -> dict[str, str] | None:
        """Texts by file name; None where no supercell holds the constants.

        Parameters
        ----------
        values : (K,) float64
            Parameters, eV/angstrom^2.
        """
        constants = self._model.force_constants(values)
        try:
            self._folder = self._folder or PhonopyFolder(constants)
            with tempfile.TemporaryDirectory() as folder:
                written = self._folder.write(constants, Path(folder))
                return {path.name: path.read_text(encoding="utf-8") for path in written}
        except InputError as error:  # of what people may fetch, never of the run
            log.warning("no_force_constants_for_phonopy", reason=str(error))
            return None


def phonopy_zip(files: Mapping[str, str], notes: Sequence[str]) -> bytes:
    """Files for phonopy as one ZIP, with ``notes`` as its README.txt."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, text in {**files, "README.txt": "\n".join(notes) + "\n"}.items():
            entry = zipfile.ZipInfo(name, _EPOCH)
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, text)
    return buffer.getvalue()

"""While a dwell settles, what its orientation looks at is computed: it is folded at once then."""

from __future__ import annotations

import math
from collections.abc import Collection

import structlog

from consumers.fold import Foreseen, foresee
from simulations.instrument import Instrument
from steering.experiment import Measurement

log = structlog.get_logger()


class Foresight:
    """One orientation computed ahead; another one at closing costs what it would have anyway.

    Parameters
    ----------
    measurement : Measurement

    Attributes
    ----------
    at_hand : Foreseen or None
        What was computed last and not used yet.
    instrument : Instrument
        Whose pixels are expected: those of the newest fold.
    """

    def __init__(self, measurement: Measurement) -> None:
        self._measurement = measurement
        self.instrument: Instrument = measurement.instrument
        self.at_hand: Foreseen | None = None

    def look(self, psis_deg: Collection[float]) -> None:
        """Compute one of the orientations, unless one of them is at hand."""
        wanted = [psi for psi in psis_deg if math.isfinite(psi)]
        if not wanted or (self.at_hand is not None and self.at_hand.sight.psi_deg in wanted):
            return
        self.at_hand = None  # its memory is needed for the next
        try:
            self.at_hand = foresee(self._measurement.geometry, self.instrument, wanted[0])
        except (ValueError, MemoryError) as error:  # the dwell says so when it closes
            log.warning("orientation_not_foreseen", psi_deg=wanted[0], reason=str(error))

    def used(self, instrument: Instrument) -> None:
        """A dwell was folded on these pixels."""
        self.instrument, self.at_hand = instrument, None

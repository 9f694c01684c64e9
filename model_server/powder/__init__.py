"""Force constants from measured powder spectra."""

from model_server.powder.inversion import invert_powder

__all__ = [
    "invert_powder",
]

"""Masses and scattering lengths of the elements."""

from __future__ import annotations

import numpy as np

from simulations.arrays import FloatArray
from simulations.errors import InputError

# ------------------------------------------------------------------------------------ crystals


def neutron_data(symbols: tuple[str, ...]) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Masses, coherent lengths and incoherent cross sections of natural elements (or D, T).

    Parameters
    ----------
    symbols : tuple of str
        Chemical symbols.

    Returns
    -------
    masses_u, scattering_length, incoherent_barn : (atoms,) float64
        u, sqrt(barn) (real part), barn.

    Raises
    ------
    ValueError
        If an element is unknown or has no tabulated neutron data.

    References
    ----------
    The tables of the `periodictable` package (Rauch and Waschkowski 2003, and updates).
    """
    import periodictable

    masses, lengths, incoherent = [], [], []
    for symbol in symbols:
        try:
            element = periodictable.elements.symbol(symbol)
        except ValueError:
            raise InputError(
                f"structure: species {symbol!r} is no element; expected a chemical symbol such as "
                "Ge. Name the species in the file."
            ) from None
        neutron = element.neutron
        if neutron is None or not neutron.has_sld() or neutron.b_c is None:
            raise InputError(
                f"structure: no neutron scattering length is tabulated for {symbol}; expected an "
                "element with neutron data. Build the Crystal with your own `scattering_length`."
            )
        masses.append(float(element.mass))
        lengths.append(float(neutron.b_c) / 10)
        incoherent.append(float(neutron.incoherent or 0.0))
    return np.array(masses), np.array(lengths), np.array(incoherent)

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from simulations.instrument import load_instrument, with_chopper
from simulations.instrument.chopper_resolution import (
    ARCS,
    VanadiumTable,
    best_frequency_Hz,
    fit_spectrometer,
    opening_time_s,
    speed_m_s,
    usable_rows,
)


@pytest.fixture
def vanadium(shared_data):
    """The measured table; of FC1 the first chopper's frequency counts, of FC2 the second's."""
    rows = []
    for name, column in (("FC1", 5), ("FC2", 6)):
        table = np.loadtxt(shared_data / "arcs" / f"V_Cali_Int_Res_{name}_2018_v2.dat")
        rows += [(name, r[column], r[3], r[9]) for r in table]
    names, frequency, ei, width = zip(*rows, strict=True)
    return VanadiumTable(
        package=names,
        frequency_Hz=np.array(frequency),
        ei_meV=np.array(ei),
        fwhm_meV=np.array(width),
    )


def relative_misses(table, spectrometer):
    use = np.flatnonzero(usable_rows(table, spectrometer))
    width = np.array(
        [
            spectrometer.fwhm_meV(table.package[k], table.frequency_Hz[k], table.ei_meV[k])
            for k in use
        ]
    )
    return width / table.fwhm_meV[use] - 1


@pytest.mark.shared_data
def test_the_shipped_curves_follow_the_vanadium_table(vanadium):
    miss = np.abs(relative_misses(vanadium, ARCS))
    print(  # noqa: T201
        f"\nARCS vanadium widths, {len(miss)} of {len(vanadium.ei_meV)} rows: "
        f"rms {100 * np.sqrt(np.mean(miss**2)):.1f} %, median {100 * np.median(miss):.1f} %, "
        f"95th percentile {100 * np.percentile(miss, 95):.1f} %, worst {100 * miss.max():.1f} %"
    )
    assert len(miss) > 160
    assert np.sqrt(np.mean(miss**2)) < 0.05
    assert np.percentile(miss, 95) < 0.10
    assert miss.max() < 0.16


@pytest.mark.shared_data
def test_a_fit_to_the_table_gives_the_shipped_numbers(vanadium):
    again = fit_spectrometer(vanadium, ARCS)
    for name, best in (("FC1", 700.0), ("FC2", 100.0)):
        assert again.packages[name].slit_mm == pytest.approx(ARCS.packages[name].slit_mm, rel=0.01)
        assert best_frequency_Hz(again.packages[name], best) == pytest.approx(600, rel=0.01)
    assert again.storage_us == pytest.approx(ARCS.storage_us, rel=0.01)
    assert again.storage_meV == pytest.approx(ARCS.storage_meV, rel=0.01)
    assert again.path_mm == pytest.approx(ARCS.path_mm, rel=0.02)


def test_each_spread_alone_moves_the_energy_as_the_flight_times_say():
    # a neutron that leaves late, passes late, or flies further: what energy transfer is read?
    ei, energy = 40.0, 13.0
    L1, L2 = 1.99, 3.0
    nominal = speed_m_s(ei)

    to_chopper = 11.61

    def read_transfer(late_at_moderator, late_at_chopper, longer):
        v = to_chopper / (to_chopper / nominal + late_at_chopper - late_at_moderator)
        incident = ei * (v / nominal) ** 2
        final = speed_m_s(incident - energy)
        at_sample = to_chopper / nominal + late_at_chopper + L1 / v
        arrival = at_sample + (L2 + longer) / final
        flight = arrival - (to_chopper + L1) / nominal
        return ei - ei * (L2 / flight / nominal) ** 2

    base = replace(ARCS, storage_us=0.0, path_mm=0.0)
    step = 1e-8
    chopper = abs(read_transfer(0, step, 0) - energy) / step
    burst = opening_time_s(ARCS.packages["FC2"], 420.0, ei)
    assert base.fwhm_meV("FC2", 420.0, ei, energy) == pytest.approx(chopper * burst, rel=1e-4)

    whole = replace(base, storage_us=10.0, storage_meV=1e9)
    pulse = abs(read_transfer(step, 0, 0) - energy) / step * 1e-5
    squares = whole.fwhm_meV("FC2", 420.0, ei, energy) ** 2
    squares -= base.fwhm_meV("FC2", 420.0, ei, energy) ** 2
    assert np.sqrt(squares) == pytest.approx(pulse, rel=1e-4)

    path = replace(base, path_mm=20.0)
    further = abs(read_transfer(0, 0, 1e-6) - energy) / 1e-6 * 0.02
    squares = path.fwhm_meV("FC2", 420.0, ei, energy) ** 2
    squares -= base.fwhm_meV("FC2", 420.0, ei, energy) ** 2
    assert np.sqrt(squares) == pytest.approx(further, rel=1e-4)


def test_the_polynomial_follows_the_curve():
    ei = 40.0
    energy = np.linspace(-ei, 0.95 * ei, 200)
    sigma = ARCS.resolution("FC2", 420.0, ei).sigma_meV(energy, ei)
    np.testing.assert_allclose(
        2.354820045 * sigma, ARCS.fwhm_meV("FC2", 420.0, ei, energy), rtol=0.003
    )


def test_an_instrument_takes_the_resolution_of_its_chopper():
    arcs = load_instrument("ARCS/8")
    at_zero = [
        with_chopper(arcs, "FC2", f, 40.0).resolution.sigma_meV(np.zeros(1), 40.0)[0]
        for f in (180.0, 420.0, 600.0)
    ]
    assert at_zero[0] > at_zero[1] > at_zero[2]
    # the resolution that ARCS has without a choice is FC2 at 420 Hz, Ei 40 meV
    default = arcs.resolution.sigma_meV(np.zeros(1), 40.0)[0]
    assert at_zero[1] == pytest.approx(default, rel=0.05)


def test_the_slits_are_straight_at_the_best_frequency():
    slits = ARCS.packages["FC2"]
    best = best_frequency_Hz(slits, 60.0)
    around = opening_time_s(slits, best * np.array([0.9, 1.0, 1.1]), 60.0)
    assert np.all(around * best * np.array([0.9, 1.0, 1.1]) <= around[1] * best * 1.2)
    assert speed_m_s(81.8042) == pytest.approx(3956.034, rel=1e-4)  # a neutron of 1 angstrom


def test_settings_that_cannot_be_say_why():
    with pytest.raises(ValueError, match="expected one of FC1, FC2"):
        ARCS.fwhm_meV("FC3", 420.0, 40.0)
    with pytest.raises(ValueError, match=r"hardly passes 12 meV.*straight to these neutrons at"):
        ARCS.fwhm_meV("FC2", 600.0, 12.0)
    with pytest.raises(ValueError, match="frequency_Hz is nan"):
        ARCS.fwhm_meV("FC2", float("nan"), 12.0)
    with pytest.raises(ValueError, match="less than Ei = 40"):
        ARCS.fwhm_meV("FC2", 420.0, 40.0, [0.0, 40.0])
    with pytest.raises(ValueError, match="choppers are not fitted"):
        with_chopper(load_instrument("HYSPEC", 0.0), "FC1", 300.0, 40.0)

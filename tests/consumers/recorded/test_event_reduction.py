import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from consumers.recorded.event_reduction import REASONS, reduce_events
from simulations.constants import METRE_PER_SECOND_PER_SQRT_MEV
from simulations.instrument import Instrument, Resolution

EI, T0, L1 = 40.0, 3.5, 13.6
ERROR_BIT = 1 << 31


def instrument(ids):
    rng = np.random.default_rng(2)
    n = len(ids)
    position = rng.normal(size=(n, 3))
    position *= 3.0 / np.linalg.norm(position, axis=1)[:, None] * rng.uniform(0.9, 1.1, (n, 1))
    return Instrument(
        name="test",
        position_m=position,
        detector_id=np.array(ids, np.int64),
        solid_angle_sr=np.full(n, 1e-4),
        masked=np.zeros(n, bool),
        source_to_sample_m=L1,
        resolution=Resolution(coefficients=(1.0,)),
    )


def by_hand(ids, tof, first, index, state, machine):
    """One event at a time, one reason at a time."""
    known = {int(i): p for p, i in enumerate(machine.detector_id)}
    pixels, energies, filtered = [], [], dict.fromkeys(REASONS, 0)
    vi = METRE_PER_SECOND_PER_SQRT_MEV * np.sqrt(EI)
    for n, (identifier, t) in enumerate(zip(ids.tolist(), tof, strict=True)):
        pulse = np.searchsorted(index, first + n, side="right") - 1
        after = float(t) - T0 - L1 / vi * 1e6
        pixel = known.get(identifier, -1)
        with np.errstate(divide="ignore", invalid="ignore"):
            v = machine.distance_m[pixel] / np.float64(after * 1e-6)
            root = v / METRE_PER_SECOND_PER_SQRT_MEV
            energy = EI - root * root  # numpy's power of a scalar may round otherwise
        checks = (
            identifier & ERROR_BIT,
            pixel < 0,
            pulse < 0 or state[pulse] == 1,
            state[pulse] == 2,
            state[pulse] == 3,
            not np.isfinite(t),
            not after > 0 or not np.isfinite(energy),
        )
        for reason, bad in zip(REASONS, checks, strict=True):
            if bad:
                filtered[reason] += 1
                break
        else:
            pixels.append(pixel)
            energies.append(energy)
    return pixels, energies, {k: v for k, v in filtered.items() if v}


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from(["near", "far"]), st.integers(0, 50))
def test_it_equals_a_loop_to_the_last_bit(seed, spread, first):
    rng = np.random.default_rng(seed)
    known = [5, 7, 8, 20] if spread == "near" else [5, 70_000, 9_000_000]
    machine = instrument(known)
    n = 40
    ids = rng.choice([*known, 6, 3, 10_000_000, known[0] | ERROR_BIT, 2**32 - 1], n)
    tof = rng.uniform(3000, 9000, n).astype(np.float32)
    tof[rng.random(n) < 0.1] = np.nan
    tof[rng.random(n) < 0.1] = np.inf
    tof[rng.random(n) < 0.1] = 10.0
    index = np.sort(rng.integers(0, n + first, 12))
    state = rng.integers(0, 4, 12).astype(np.int8)
    found = reduce_events(
        ids.astype(np.uint32),
        tof,
        first=first,
        pulse_index=index,
        pulse_state=state,
        instrument=machine,
        ei_meV=EI,
        t0_us=T0,
    )
    pixels, energies, filtered = by_hand(ids, tof, first, index, state, machine)
    assert found.pixel.tolist() == pixels
    assert np.array_equal(found.energy_transfer_meV, np.array(energies, float))
    assert found.filtered == filtered
    assert found.read == n == len(pixels) + sum(filtered.values())


@pytest.mark.parametrize("n", [0, 1])
def test_no_pulses_and_no_events(n):
    found = reduce_events(
        np.full(n, 5, np.uint32),
        np.full(n, 6000.0, np.float32),
        first=0,
        pulse_index=np.empty(0, np.int64),
        pulse_state=np.empty(0, np.int8),
        instrument=instrument([5]),
        ei_meV=EI,
        t0_us=T0,
    )
    assert found.filtered == ({"no pulse": 1} if n else {})

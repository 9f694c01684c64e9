from __future__ import annotations

import h5py
import numpy as np
import pytest

from consumers.recorded import UnreadableError, read_monitors

IDF = """<instrument name="TEST">
<component type="moderator"><location z="-20.0"/></component>
<type is="Source" name="moderator"/>
<component type="monitor"><location name="monitor1" z="-8.25"/></component>
<component type="monitor"><location name="monitor2"><parameter name="z">
  <logfile eq="-0.001*value-1.5" id="msd"/></parameter></location></component>
<type is="monitor" name="monitor"/>
</instrument>"""


@pytest.fixture
def recorded(tmp_path):
    path = tmp_path / "run.nxs.h5"
    rng = np.random.default_rng(3)
    with h5py.File(path, "w") as file:
        entry = file.create_group("entry")
        entry.attrs["NX_class"] = "NXentry"
        entry["instrument/instrument_xml/data"] = [IDF.encode()]
        entry["DASlogs/msd/average_value"] = [1750.0]
        entry["DASlogs/frequency/average_value"] = [60.0]
        one = entry.create_group("monitor1")
        one.attrs["NX_class"] = "NXmonitor"
        edges = np.arange(0.0, 16667.0, 2.0)
        middle = 0.5 * (edges[1:] + edges[:-1])
        pulse = 1000 * np.exp(-0.5 * ((middle - 5300.0) / 20.0) ** 2) + 0.1
        one["time_of_flight"], one["data"] = edges, rng.poisson(pulse)
        two = entry.create_group("monitor2")
        two.attrs["NX_class"] = "NXmonitor"
        stray = rng.uniform(0, 16667.0, 40)
        two["event_time_offset"] = np.r_[rng.normal(520.0, 14.0, 800), stray].astype(np.float32)
        three = entry.create_group("monitor3")
        three.attrs["NX_class"] = "NXmonitor"
        three["event_time_offset"] = np.zeros(0, np.float32)
    return path


def test_pulses_and_places_are_read_from_events_and_from_histograms(recorded):
    pulses, silent = read_monitors(recorded)
    assert [pulse.name for pulse in pulses] == ["monitor1", "monitor2"]
    assert silent == ("monitor3",)
    one, two = pulses
    assert one.time_us == pytest.approx(5300.0, abs=4 * one.error_us)
    assert two.time_us == pytest.approx(520.0, abs=4 * two.error_us)
    assert 0.3 < two.error_us < 0.8
    assert one.distance_m == pytest.approx(20.0 - 8.25)
    assert two.distance_m == pytest.approx(20.0 - 3.25)
    assert two.frame_us == pytest.approx(1e6 / 60)


def test_files_without_monitors_or_places_say_so(recorded, tmp_path):
    with h5py.File(recorded, "a") as file:
        del file["entry/instrument"]
    pulses, _ = read_monitors(recorded)
    assert all(pulse.distance_m is None for pulse in pulses)
    with pytest.raises(UnreadableError, match="no such file"):
        read_monitors(tmp_path / "absent.h5")


@pytest.mark.shared_data
def test_the_monitor_of_the_real_files_stands_where_their_definition_says(shared_data):
    for path in sorted((shared_data / "hyspec-mno").glob("*.nxs.h5")):
        pulses, _ = read_monitors(path)
        assert [pulse.name for pulse in pulses] == ["monitor2"]
        assert pulses[0].distance_m == pytest.approx(37.3836, abs=1e-3)
        assert pulses[0].time_us == pytest.approx(520.7, abs=1.5)
        assert pulses[0].events > 600

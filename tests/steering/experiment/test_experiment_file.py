from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulations.errors import StorageError
from steering.experiment import Experiment, dump_experiment, load_experiment, write_amended
from steering.experiment.experiment_file import ExperimentError, parse_experiment

EXAMPLES = Path(__file__).resolve().parents[3] / "examples"
REFERENCE = (EXAMPLES / "ge-arcs.yaml").read_text()


@pytest.mark.parametrize(
    "name",
    [
        "ge-arcs",
        "mno-hyspec",
        "al-arcs",
        "MgO/experiment",
        "MoSi2/experiment",
        "Ti3Al/experiment",
    ],
)
def test_every_example_loads_and_survives_a_dump(name, tmp_path):
    experiment = load_experiment(EXAMPLES / f"{name}.yaml")
    dump_experiment(experiment, tmp_path / "again.yaml")
    assert load_experiment(tmp_path / "again.yaml") == experiment


def test_the_reference_run_is_the_one_that_figures_are_quoted_on():
    experiment = load_experiment(EXAMPLES / "ge-arcs.yaml")
    segments = experiment.path.segments()
    assert segments is not None
    assert [s.bins for s in segments] == [40, 10, 30, 20, 20, 20]
    assert [s.start_label + "-" + s.end_label for s in segments] == [
        "Gamma-X",
        "X-U",
        "K-Gamma",
        "Gamma-L",
        "L-W",
        "W-X",
    ]
    assert experiment.path.energy.bins == 140
    assert experiment.motion.limits_deg == (0, 120)
    assert experiment.virtual.counts_per_minute == 3000


def test_bins_left_out_follow_the_step_along_the_leading_component():
    experiment = parse_experiment(REFERENCE.replace("  bins: [40, 10, 30, 20, 20, 20]", ""))
    segments = experiment.path.segments()
    assert segments is not None
    assert [s.bins for s in segments] == [40, 10, 30, 20, 20, 20]


def test_seekpath_leaves_the_segments_to_the_structure():
    start, end = REFERENCE.index("  points:"), REFERENCE.index("  half_width_rlu")
    text = REFERENCE[:start] + "  points: seekpath\n" + REFERENCE[end:]
    assert parse_experiment(text).path.segments() is None


def test_ub_is_replaced_by_the_u_and_v_that_it_means():
    UB = "[[0, 0, 0.2], [0.2, 0, 0], [0, 0.2, 0]]"  # (010) along the beam, (001) along lab x
    text = REFERENCE.replace("  u: [1, 1, 0]", f"  UB: {UB}").replace("  v: [0, 0, 1]", "")
    sample = parse_experiment(text).sample
    assert sample.u == pytest.approx((0, 5, 0))
    assert sample.v == pytest.approx((0, 0, 5))


HOSTILE = [
    (
        "limits_deg: [0, 120]",
        "limits_deg: [40, -40]",
        "motion.limits_deg is [40, -40]; expected lower < upper. Swap the two.",
    ),
    ("limits_deg", "limit_deg", "motion.limit_deg is [0, 120]; expected no such field. Did you "),
    ("ei_meV: 40", "ei_meV: '40'", "instrument.ei_meV is '40'; expected a number"),
    ("ei_meV: 40", "ei_meV: -3", "instrument.ei_meV is -3; expected a number > 0"),
    ("ei_meV: 40", "ei_meV: .inf", "instrument.ei_meV is inf; expected a finite number"),
    ("ei_meV: 40", "ei_meV: true", "instrument.ei_meV is True; expected a number"),
    ("ei_meV: 40", "ei_meV:", "instrument.ei_meV is empty; expected a number"),
    ("ei_meV: 40, ", "", "instrument.ei_meV is missing; expected incident energy"),
    ("[40, 10, 30,", "[40, 10,", "path.bins is [40, 10, 20, 20, 20]; expected 6 numbers"),
    ("[40, 10, 30,", "[100000000, 10, 30,", "expected at most 5000 bins together"),
    ("bins: 140", "bins: 1000000000", "path.energy.bins is 1000000000; expected"),
    ("hkl: [0, 0, 1]", "hkl: [0, 0]", "path.points[1].hkl[2] is missing; expected three numbers"),
    ("hkl: [0, 0, 1]", "hkl: [0, x, 1]", "path.points[1].hkl[1] is 'x'; expected a number"),
    ("{label: X,", "{lable: X,", "path.points[1].lable is 'X'; expected no such field. Did you"),
    ("free: 8", "free: 0", "parameters.free is 0; expected a number >= 1"),
    ("free: 8", "free: [a, 3]", "parameters.free[1] is 3; expected text"),
    ("free: 8", "free: [a, a]", "parameters.free is ['a', 'a']; expected every name once"),
    ("free: 8", "free: []", "parameters.free is []; expected at least one name"),
    ("u: [1, 1, 0]", "u: [0, 0, 0]", "sample.u is [0, 0, 0]; expected a direction"),
    ("v: [0, 0, 1]", "v: [2, 2, 0]", "sample.v is [2, 2, 0]; expected a direction that is not"),
    ("u: [1, 1, 0]", "UB: 3", "expected either u and v, or UB"),
    ("kind: files", "kind: kafka", "expected a section source.kafka for kind kafka"),
    ("kind: files", "kind: udp", "source.kind is 'udp'; expected 'files'"),
    ("model: germanium", "model: 7", "model is 7; expected text"),
    ("title: ", "model: x\ntitle: ", "model comes twice"),
    ("max_meV: 70", "max_meV: 1:10", "path.energy.max_meV is '1:10'; expected a number"),
    ("max_meV: 70", "max_meV: 1:10.5", "path.energy.max_meV is '1:10.5'; expected a number"),
    ("max_meV: 70", "max_meV: -1", "path.energy.max_meV is -1; expected more than min_meV = 0"),
    ("substeps: 4", "substeps: 2", "path.energy.substeps is 2; expected at least 4"),
    ("min_meV: 0", "min_meV: 45", "starts below instrument.ei_meV = 40"),
    ("voxel_rlu: 0.025", "voxel_rlu: 0.2", "path.voxel_rlu is 0.2; expected at most half_width"),
    ("per_parameter: {}", "per_parameter: {a: -1}", "targets.per_parameter.a is -1; expected"),
    ("source: {kind: files}", "source: 3", "source is 3; expected a section with"),
    ("sample:", "sampel:", "sampel is"),
    ("title: ", 'title: "\\e[31m" # ', "expected text on one line"),
    ("motion: {", "motion: [{", "line 28, column 1"),
]


@pytest.mark.parametrize(("before", "after", "says"), HOSTILE)
def test_a_wrong_field_is_named_with_its_value_and_what_was_expected(before, after, says):
    assert before in REFERENCE
    with pytest.raises(ExperimentError) as caught:
        parse_experiment(REFERENCE.replace(before, after, 1), name="ge.yaml")
    lines = str(caught.value).splitlines()
    assert all(line.startswith("ge.yaml: ") for line in lines)
    assert any(says in line for line in lines), lines


def test_all_faults_are_reported_at_once():
    text = REFERENCE.replace("ei_meV: 40", "ei_meV: -3").replace("free: 8", "free: 0")
    with pytest.raises(ExperimentError) as caught:
        parse_experiment(text)
    assert len(str(caught.value).splitlines()) == 2


def test_a_number_may_be_written_with_an_exponent():
    text = REFERENCE.replace("counts_per_minute: 3000", "counts_per_minute: 3e4")
    assert parse_experiment(text).virtual.counts_per_minute == 30000


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "is empty"),
        (b"- 1\n- 2\n", "is [1, 2]"),
        (b"\x89HDF\r\n\x1a\n" + bytes(range(256)), "not UTF-8"),
        (b"title: !!python/object/apply:os.system [ls]\n", "could not determine a constructor"),
        (b"x" * 1_000_001, "1000001 bytes"),
        (b"[" * 5000, ""),
    ],
)
def test_a_file_that_is_no_experiment_is_refused(tmp_path, content, says):
    path = tmp_path / "experiment.yaml"
    path.write_bytes(content)
    with pytest.raises(ExperimentError, match=r"^experiment\.yaml: ") as caught:
        load_experiment(path)
    assert says in str(caught.value)


def test_a_missing_file_says_how_to_get_one(tmp_path):
    with pytest.raises(ExperimentError, match="beamsteer init"):
        load_experiment(tmp_path / "none.yaml")


TEXT = st.text(min_size=1).filter(str.isprintable)


@settings(max_examples=25)
@given(
    psi=st.tuples(st.floats(-180, 0), st.floats(0.1, 180)),
    free=st.integers(1, 50) | st.lists(TEXT, min_size=1, unique=True),
    title=TEXT,
)
def test_any_valid_experiment_survives_a_dump(psi, free, title):
    base = parse_experiment(REFERENCE).model_dump(mode="json")
    base["motion"]["limits_deg"] = list(psi)
    base["parameters"]["free"] = free
    base["title"] = title
    experiment = Experiment.model_validate(base)
    assert parse_experiment(dump_experiment(experiment)) == experiment


def test_a_file_amended_in_place_on_a_full_disk_stays_as_it_was(small_disk):
    path = small_disk.folder / "experiment.yaml"
    path.write_text(REFERENCE + "# padding\n" * 2000)
    before = path.read_bytes()
    small_disk.fill(leave_bytes=8192)
    for output in (path, small_disk.folder / "other.yaml"):
        with pytest.raises(StorageError, match="No space left"):
            write_amended(path, output, {"sample": {"psi_offset_deg": 1.0}})
    small_disk.make_room()
    assert {one: one.read_bytes() for one in small_disk.folder.iterdir()} == {path: before}
    write_amended(path, path, {"sample": {"psi_offset_deg": 1.0}})
    assert load_experiment(path).sample.psi_offset_deg == 1.0

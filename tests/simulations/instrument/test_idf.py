from __future__ import annotations

import numpy as np
import pytest

from simulations.instrument import UNKNOWN_RESOLUTION, evaluate_formula, parse_idf, required_logs
from simulations.instrument.idf import instrument_name

PIXEL = """<type is="detector" name="pixel"><cylinder id="c">
<centre-of-bottom-base x="0" y="0" z="0"/><axis x="0" y="1" z="0"/>
<radius val="0.01"/><height val="0.02"/></cylinder></type>"""
SOURCE = """<component type="mod"><location z="-10"/></component><type is="Source" name="mod"/>
<component type="sam"><location/></component><type is="SamplePos" name="sam"/>"""


def idf(body: str, *, defaults: str = "", pixel: str = PIXEL, source: str = SOURCE) -> str:
    return (
        f'<instrument name="toy"><defaults>{defaults}</defaults>{source}{body}{pixel}</instrument>'
    )


def panel(location: str, ids: str = '<id val="1"/>') -> str:
    return (
        f'<component type="pixel" idlist="all">{location}</component>'
        f'<idlist idname="all">{ids}</idlist>'
    )


def place(location: str, logs: dict[str, float] | None = None) -> np.ndarray:
    return parse_idf(idf(panel(location)), logs or {}).position_m[0]


@pytest.mark.parametrize(
    ("formula", "value", "expected"),
    [
        ("-0.001*value-38.980", 1784.0, -40.764),
        ("value", 3.0, 3.0),
        ("2^3 + (value/4)^0.5", 16.0, 10.0),
        ("sqrt(abs(-value))", 9.0, 3.0),
        ("1e3*value", 2.0, 2000.0),
    ],
)
def test_formulas_are_arithmetic(formula: str, value: float, expected: float) -> None:
    assert evaluate_formula(formula, value) == pytest.approx(expected)


@pytest.mark.parametrize(
    "formula",
    [
        "__import__('os').system('true')",
        "value.real",
        "[value]",
        "value if value else 1",
        "other",
        "9**9**9**9",
        "1/0*value",
        "log(value",
        "True",
        "'a'*3",
        "value+" * 200 + "1",
        "",
    ],
)
def test_nothing_but_arithmetic_is_obeyed(formula: str) -> None:
    with pytest.raises(ValueError, match="expected arithmetic"):
        evaluate_formula(formula, 1.0)


def test_spherical_places_and_nested_moves_follow_the_documentation() -> None:
    np.testing.assert_allclose(place('<location r="2" t="90" p="0"/>'), [2, 0, 0], atol=1e-12)
    np.testing.assert_allclose(place('<location r="2" t="90" p="90"/>'), [0, 2, 0], atol=1e-12)
    moved = '<location r="10" t="90"><trans r="8" t="-90"/></location>'
    np.testing.assert_allclose(place(moved), [2, 0, 0], atol=1e-12)
    turned = '<location x="10"><rot val="90"><trans x="-8"/></rot></location>'
    np.testing.assert_allclose(place(turned), [10, -8, 0], atol=1e-12)


def test_nested_turns_apply_the_outer_one_first() -> None:
    body = """<component type="arm" idlist="all">
    <location rot="90" axis-x="0" axis-y="1" axis-z="0">
    <rot val="90" axis-x="1" axis-y="0" axis-z="0"/></location></component>
    <type name="arm"><component type="pixel"><location y="1"/></component></type>
    <idlist idname="all"><id val="1"/></idlist>"""
    # y turned about x by 90 degrees is z; z turned about y by 90 degrees is x
    np.testing.assert_allclose(parse_idf(idf(body), {}).position_m[0], [1, 0, 0], atol=1e-12)


def test_a_list_of_locations_and_stepped_identifiers() -> None:
    body = panel(
        '<locations z="2" y="1" y-end="2" n-elements="3"/>', '<id start="10" step="5" end="20"/>'
    )
    toy = parse_idf(idf(body), {})
    np.testing.assert_allclose(toy.position_m[:, 1], [1.0, 1.5, 2.0])
    assert toy.detector_id.tolist() == [10, 15, 20]
    assert toy.tube is not None
    assert toy.tube.tolist() == [0, 0, 0]
    assert toy.resolution == UNKNOWN_RESOLUTION
    assert not toy.masked.any()


def test_logs_place_components_and_are_named() -> None:
    location = """<location><parameter name="z"><logfile id="far" eq="0.001*value"/></parameter>
    <parameter name="x"><value val="3"/></parameter></location>"""
    assert required_logs(idf(panel(location))) == ("far",)
    np.testing.assert_allclose(place(location, {"far": 4000.0}), [3, 0, 4])
    for logs, state in (({}, "missing"), ({"far": float("nan")}, "nan")):
        with pytest.raises(ValueError, match=f"log 'far', which is {state}.*Give its value"):
            place(location, logs)


def test_monitors_are_left_out_but_use_up_their_identifiers() -> None:
    body = """<component type="mixed" idlist="all"><location/></component><type name="mixed">
    <component type="pixel" mark-as="monitor"><location z="1"/></component>
    <component type="pixel"><location z="2"/></component></type>
    <idlist idname="all"><id val="-1"/><id val="7"/></idlist>"""
    toy = parse_idf(idf(body), {})
    assert toy.detector_id.tolist() == [7]


def test_a_rectangular_detector_numbers_its_columns() -> None:
    body = """<component type="panel" idstart="100" idfillbyfirst="y" idstepbyrow="10">
    <location z="2"/></component>
    <type name="panel" is="RectangularDetector" type="pixel" xpixels="2" xstart="-0.1" xstep="0.2"
     ypixels="3" ystart="-0.1" ystep="0.1"/>"""
    toy = parse_idf(idf(body), {})
    assert toy.detector_id.tolist() == [100, 101, 102, 110, 111, 112]
    np.testing.assert_allclose(toy.position_m[4], [0.1, 0.0, 2.0], atol=1e-12)


def test_excluded_parts_are_left_out() -> None:
    body = """<component type="pair" idlist="all"><location><exclude sub-part="one"/></location>
    <location x="1"/></component><type name="pair">
    <component type="pixel" name="one"><location z="1"/></component>
    <component type="pixel" name="two"><location z="2"/></component></type>
    <idlist idname="all"><id start="1" end="3"/></idlist>"""
    np.testing.assert_allclose(parse_idf(idf(body), {}).position_m[:, 2], [2, 1, 2])


def test_other_axes_and_hands_become_ours() -> None:
    frame = """<reference-frame><along-beam axis="x"/><pointing-up axis="z"/>
    <handedness val="{}"/></reference-frame>"""
    source = SOURCE.replace('z="-10"', 'x="-10"')
    body = panel('<location x="1" y="2" z="3"/>')
    for hand, expected in (("right", [2, 3, 1]), ("left", [-2, 3, 1])):
        xml = idf(body, defaults=frame.format(hand), source=source)
        toy = parse_idf(xml, {})
        np.testing.assert_allclose(toy.position_m[0], expected, atol=1e-12)
        assert toy.source_to_sample_m == pytest.approx(10.0)


def test_solid_angles_of_strips_and_boxes() -> None:
    strip = parse_idf(idf(panel('<location z="2"/>')), {})
    assert strip.solid_angle_sr[0] == pytest.approx(0.02 * 0.02 / 4)
    above = parse_idf(idf(panel('<location y="2"/>')), {})
    assert above.solid_angle_sr[0] == pytest.approx(0.0, abs=1e-15)  # seen along its axis
    box = """<type is="detector" name="pixel"><cuboid id="b">
    <left-front-bottom-point x="-0.01" y="-0.02" z="0"/>
    <left-front-top-point x="-0.01" y="0.02" z="0"/>
    <left-back-bottom-point x="-0.01" y="-0.02" z="-0.001"/>
    <right-front-bottom-point x="0.01" y="-0.02" z="0"/></cuboid></type>"""
    flat = parse_idf(idf(panel('<location z="2"/>'), pixel=box), {})
    assert flat.solid_angle_sr[0] == pytest.approx(0.02 * 0.04 / 4)


def test_namespaces_are_ignored_and_names_found() -> None:
    xml = idf(panel('<location z="2"/>')).replace(
        "<instrument ", '<instrument xmlns="http://www.mantidproject.org/IDF/1.0" '
    )
    assert instrument_name(xml) == "toy"
    assert parse_idf(xml, {}).n_pixels == 1


@pytest.mark.parametrize(
    ("xml", "words"),
    [
        ("", "no XML"),
        ("<instrument", "no XML"),
        ("<html/>", "starts with <html>"),
        ('<!DOCTYPE x [<!ENTITY a "b">]><instrument/>', "declares entities"),
        (idf(panel('<location z="2"/>'), source=""), "no component of type is='Source'"),
        (idf(""), "no detectors"),
        (idf(panel('<location z="2"/>', '<id start="1" end="2"/>')), "numbers 2 detectors"),
        (idf(panel('<location z="2"/><location z="3"/>', '<id val="1"/><id val="1"/>')), "twice"),
        (idf(panel('<location z="2"/>', "<id/>")), "expected val"),
        (idf('<component type="pixel"><location z="2"/></component>'), "have no identifier"),
        (idf('<component type="lost"><location/></component>'), "does not define"),
        (idf(panel('<location z="2"><facing x="0" y="0" z="0"/></location>')), "facing"),
        (idf(panel('<location z="far"/>')), "expected a number"),
        (idf(panel('<location z="2"/>'), defaults='<length unit="mm"/>'), "length unit is 'mm'"),
        (idf(panel("<location/>")), "lies at the sample"),
        (
            idf(panel('<location z="2"/>'), pixel='<type is="detector" name="pixel"/>'),
            "solid angle is unknown",
        ),
        (
            idf(
                '<component type="a" idlist="all"><location/></component><type name="a">'
                '<component type="a"><location/></component></type><idlist idname="all"/>'
            ),
            "contains itself",
        ),
    ],
)
def test_a_definition_that_would_be_read_wrongly_is_refused(xml: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        parse_idf(xml, {})

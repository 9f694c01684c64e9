from consumers.state.nexus_template import LogName, entry_value, instrument_xml, log_names


def group(name, *children):
    return {"type": "group", "name": name, "children": list(children)}


def dataset(name, values, unit=None):
    node = {"module": "dataset", "config": {"name": name, "values": values}}
    if unit:
        node["attributes"] = [{"name": "units", "values": unit}]
    return node


TEMPLATE = {
    "children": [
        group(
            "entry",
            dataset("duration", 12.5, "second"),
            group("instrument", group("instrument_xml", dataset("data", "<idf/>"))),
            group(
                "DASlogs",
                group("s1", {"module": "f144", "config": {"source": "BL:psi", "units": "deg"}}),
                group("plain", {"module": "f144", "config": {"source": "plain"}}),
            ),
        )
    ]
}


def test_logs_are_named_by_their_group():
    assert log_names(TEMPLATE) == {
        "BL:psi": LogName(name="s1", unit="deg"),
        "plain": LogName(name="plain", unit=""),
    }


def test_geometry_and_values_of_the_entry_are_found():
    assert instrument_xml(TEMPLATE) == "<idf/>"
    assert entry_value(TEMPLATE, "duration") == (12.5, "second")
    assert entry_value(TEMPLATE, "data") is None


def test_what_is_no_template_says_nothing():
    deep = group("g")
    for _ in range(5000):
        deep = group("g", deep)
    cycle_free = [{}, {"children": 3}, {"children": [None, 4, "x"]}, deep]
    cycle_free += [{"children": [{"module": "f144", "config": []}, {"module": "f144"}]}]
    for template in cycle_free:
        assert log_names(template) == {}
        assert instrument_xml(template) is None
        assert entry_value(template, "duration") is None

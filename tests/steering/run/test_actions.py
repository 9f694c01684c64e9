from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from simulations.errors import InputError
from steering.run.actions import (
    ACTION_VERBS,
    Action,
    Asked,
    ConflictError,
    Moment,
    Orders,
    Scene,
    orders_of,
    refuse_unfit,
)

ASKED = TypeAdapter(Asked)
SCENE = Scene(
    folded=("1", "2", "3"),
    limits_deg=(0.0, 120.0),
    advised_deg=(48.0, 84.0),
    targeted=("1NN xx", "1NN xy"),
    moment=Moment(chunks=3, newest_start_ns=300),
)
EXAMPLES = {
    "withdraw": {"chunk": "2"},
    "restore": {"chunk": "2"},
    "targets": {"relative_sigma": 0.02, "per_parameter": {"1NN xx": 0.01}},
    "budget": {"minutes": 90.0},
    "pin": {"psi_deg": 33.0},
    "unpin": {"psi_deg": 33.0},
    "veto": {"psi_deg": 60.0, "within_deg": 5.0},
    "unveto": {"psi_deg": 60.0},
    "approve": {"psi_deg": 48.0},
    "reject": {"psi_deg": 84.0},
    "close": {},
    "reopen": {},
}


def asked(what: str, **fields):
    return ASKED.validate_python({"what": what, **(fields or EXAMPLES[what])})


def action(number: int, what: str, moment: Moment = SCENE.moment, **fields) -> Action:
    return Action(
        number=number, at_ns=number, by="Ada", role="operator", way="api", why="because",
        asked=asked(what, **fields), moment=moment,
    )  # fmt: skip


def after(*whats) -> Orders:
    made = [one if isinstance(one, tuple) else (one, {}) for one in whats]
    return orders_of(action(i, what, **f) for i, (what, f) in enumerate(made, 1))


def test_every_action_has_an_example_here():
    assert set(EXAMPLES) == set(ACTION_VERBS)


def test_a_chunk_is_withdrawn_with_its_reason_until_it_is_restored():
    assert after("withdraw").withdrawn == {"2": "because (Ada)"}
    assert after("withdraw", "restore").withdrawn == {}
    for orders, what in ((after("withdraw"), "withdraw"), (Orders(), "restore")):
        with pytest.raises(ConflictError, match="already|not withdrawn"):
            refuse_unfit(asked(what), orders, SCENE)
    with pytest.raises(InputError, match="expected a folded one: 1, 2, 3"):
        refuse_unfit(asked("withdraw", chunk="9"), Orders(), SCENE)


def test_a_pin_holds_until_its_orientation_was_measured_after_it():
    orders = after("pin", ("pin", {"psi_deg": 12.0}))
    before = [(33.0, 200)]
    assert [one.psi_deg for one in orders.wishes(before, 3).first] == [33.0, 12.0]
    assert [one.psi_deg for one in orders.wishes([(33.0, 400)], 4).first] == [12.0]
    assert [one.psi_deg for one in after("pin", "unpin").wishes(before, 3).first] == []


def test_a_decision_holds_until_the_next_chunk():
    orders = after("reject", "approve")
    now = orders.wishes([], 3)
    assert [(one.psi_deg, one.why) for one in now.first] == [(48.0, "approved")]
    assert now.rejected == (84.0,)
    assert not now.allows(84.0)
    then = orders.wishes([], 4)
    assert (then.first, then.rejected) == ((), ())
    other = after("approve", ("reject", {"psi_deg": 48.0})).wishes([], 3)
    assert (other.first, other.rejected) == ((), (48.0,))  # the last word counts


def test_a_veto_is_never_first_and_takes_what_is_near_it():
    wishes = after("veto").wishes([], 3)
    assert [wishes.allows(psi) for psi in (54.0, 55.0, 60.0, 65.0, 66.0)] == [
        True, False, False, False, True,
    ]  # fmt: skip
    with pytest.raises(ConflictError, match="vetoed"):
        refuse_unfit(asked("pin", psi_deg=61.0), after("veto"), SCENE)
    with pytest.raises(ConflictError, match="pinned"):
        refuse_unfit(asked("veto", psi_deg=30.0, within_deg=4.0), after("pin"), SCENE)


def test_targets_and_budget_stand_in_the_place_of_those_of_the_experiment():
    wishes = after("targets", "budget").wishes([], 3)
    assert wishes.relative("1NN xx", 0.05) == 0.01
    assert wishes.relative("1NN xy", 0.05) == 0.02
    assert wishes.budget_minutes == 90.0
    back = after("targets", ("targets", {"relative_sigma": None}), ("budget", {"minutes": None}))
    assert back.wishes([], 3).document() == {}
    with pytest.raises(InputError, match="expected one that has a target: 1NN xx, 1NN xy"):
        refuse_unfit(asked("targets", per_parameter={"9NN zz": 0.1}), Orders(), SCENE)


@pytest.mark.parametrize("what", [v for v in ACTION_VERBS if v != "reopen"])
def test_a_closed_run_takes_no_action_but_to_be_opened_again(what):
    closed = after("close")
    with pytest.raises(ConflictError, match="closed"):
        refuse_unfit(asked(what), closed, SCENE)
    refuse_unfit(asked("reopen"), closed, SCENE)
    with pytest.raises(ConflictError, match="the run is open"):
        refuse_unfit(asked("reopen"), Orders(), SCENE)
    assert after("close", "reopen").closed is None


@pytest.mark.parametrize(
    ("what", "fields"),
    [
        ("pin", {"psi_deg": 121.0}),
        ("veto", {"psi_deg": -1.0}),
        ("unpin", {"psi_deg": 5.0}),
        ("unveto", {"psi_deg": 5.0}),
        ("approve", {"psi_deg": 5.0}),
        ("reject", {"psi_deg": 5.0}),
    ],
)
def test_an_orientation_that_is_not_there_is_refused_with_those_that_are(what, fields):
    with pytest.raises(InputError, match="expected"):
        refuse_unfit(asked(what, **fields), Orders(), SCENE)


@pytest.mark.parametrize(
    "document",
    [
        {"what": "explode"},
        {"what": "withdraw"},
        {"what": "withdraw", "chunk": ""},
        {"what": "withdraw", "chunk": "a\nb"},
        {"what": "withdraw", "chunk": "2", "psi_deg": 1.0},
        {"what": "pin", "psi_deg": float("nan")},
        {"what": "pin", "psi_deg": 1e9},
        {"what": "targets", "relative_sigma": 0.0},
        {"what": "targets", "relative_sigma": -0.1},
        {"what": "targets", "per_parameter": {"1NN xx": float("inf")}},
        {"what": "budget", "minutes": 0.0},
        {"what": "veto", "psi_deg": 3.0, "within_deg": -1.0},
    ],
)
def test_what_makes_no_sense_is_no_action(document):
    with pytest.raises(ValidationError):
        ASKED.validate_python(document)


@given(st.lists(st.sampled_from(list(ACTION_VERBS)), max_size=30))
def test_orders_are_those_of_the_actions_one_by_one(whats):
    """Whatever fits is taken, a later reader sees what the writer saw, and JSON keeps it."""
    orders, taken = Orders(), []
    for what in whats:
        try:
            refuse_unfit(asked(what), orders, SCENE)
        except InputError:
            continue
        one = action(len(taken) + 1, what)
        taken.append(Action.model_validate_json(one.model_dump_json()))
        orders = orders.with_action(one)
    assert orders_of(taken) == orders
    assert orders.number == len(taken)

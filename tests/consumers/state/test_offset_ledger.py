from hypothesis import given
from hypothesis import strategies as st

from consumers.state.manifest_store import Position
from consumers.state.offset_ledger import OffsetLedger
from consumers.wire import RawMessage


def raw(offset):
    return RawMessage(topic="t", partition=0, offset=offset, value=b"")


def test_the_oldest_needed_message_holds_the_position_and_settled_ones_beyond_are_named():
    ledger = OffsetLedger()
    for offset in range(5):
        assert ledger.admit(raw(offset))
    for offset in (0, 2, 3):
        ledger.settle(("t", offset), "data")
    assert ledger.positions() == {"t": Position(next=1, done=((2, 3),))}
    ledger.settle(("t", 1), "data")
    ledger.settle(("t", 4), "data")
    assert ledger.positions() == {"t": Position(next=5)}
    assert ledger.counters == {"messages.t": 5, "data": 5}


def test_a_message_of_two_parts_is_needed_until_both_are_settled():
    ledger = OffsetLedger()
    ledger.admit(raw(0))
    ledger.need(raw(0))
    ledger.settle(("t", 0), "logs")
    assert ledger.positions()["t"].next == 0
    ledger.settle(("t", 0), "data")
    assert ledger.positions()["t"].next == 1
    assert ledger.counters == {"messages.t": 1, "data": 1}


def test_what_is_held_or_settled_is_not_admitted_again_not_even_by_a_successor():
    ledger = OffsetLedger()
    assert ledger.admit(raw(0))
    assert not ledger.admit(raw(0))
    ledger.bury(raw(0), "no use")
    assert not ledger.admit(raw(0))
    assert [letter.reason for letter in ledger.dead] == ["no use"]
    successor = OffsetLedger()
    successor.restore(ledger.positions(), ledger.counters)
    assert not successor.admit(raw(0))
    assert successor.admit(raw(1))


@given(st.sets(st.integers(0, 60)), st.integers(0, 20))
def test_a_position_has_what_is_before_it_and_in_its_ranges(offsets, needed):
    ledger = OffsetLedger()
    ledger.restore({"t": Position(next=needed)}, {})
    ledger.admit(raw(needed))
    for offset in offsets:
        if ledger.admit(raw(offset)):
            ledger.settle(("t", offset), "data")
    position = ledger.positions()["t"]
    settled = {o for o in range(62) if o < needed or (o in offsets and o != needed)}
    assert {o for o in range(62) if position.has(o)} == settled

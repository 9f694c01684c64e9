"""Signals that end a block: at once, whatever they interrupt, with no word of what was left."""

import gc
import os
import signal
import sys
import time

import pytest

from steering.web import stopped_by_signals

NUMBERS = (signal.SIGINT, signal.SIGTERM)


@pytest.fixture(autouse=True)
def told(monkeypatch):
    """Kinds of the faults of finalisers that are told; the hook is put back."""
    kinds = []
    monkeypatch.setattr(sys, "unraisablehook", lambda one: kinds.append(one.exc_type))
    return kinds


class Removed:
    """Calls something in its finaliser, which swallows what that raises."""

    def __init__(self, call):
        self.call = call

    def __del__(self):
        self.call()


def ask(number):
    os.kill(os.getpid(), number)
    time.sleep(0.01)


def computing(seconds=5.0):
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        sum(range(1000))


@pytest.mark.parametrize("number", NUMBERS)
def test_a_signal_ends_a_computation(number, told):
    before = [signal.getsignal(one) for one in (*NUMBERS, signal.SIGALRM)]
    start = time.monotonic()
    with stopped_by_signals():
        ask(number)
        computing()
    assert time.monotonic() - start < 2
    assert before == [signal.getsignal(one) for one in (*NUMBERS, signal.SIGALRM)]
    assert not told


@pytest.mark.parametrize("number", NUMBERS)
def test_a_signal_that_a_finaliser_swallowed_ends_the_block_all_the_same(number, told):
    start = time.monotonic()
    with stopped_by_signals():
        removed = Removed(lambda: ask(number))
        del removed
        computing()
        raise AssertionError("The signal was lost.")
    assert time.monotonic() - start < 2
    assert not told


def test_what_was_left_half_made_complains_to_nobody(told):
    def leave_half_made():
        kept = [Removed(lambda: [].pop())]
        kept.append(kept)  # goes with the next collection
        ask(signal.SIGTERM)

    with stopped_by_signals():
        leave_half_made()
    gc.collect()
    assert not told


def test_faults_of_finalisers_are_told_where_nothing_was_asked(told):
    hook = sys.unraisablehook
    with stopped_by_signals():
        other = Removed(lambda: {}["unmade"])
        del other
    assert told == [KeyError]
    assert sys.unraisablehook is hook

from __future__ import annotations

import pytest

from steering.web.attempts import ADDRESSES, ALL_PER_MINUTE, FORGOTTEN_AFTER_S, FREE, Attempts


def test_an_address_waits_longer_with_every_wrong_token_and_is_forgotten_after_a_while():
    clock = [0.0]
    attempts = Attempts(monotonic=lambda: clock[0])
    waits = []
    for _ in range(FREE + 12):
        clock[0] += attempts.wait_s("a")
        assert attempts.wait_s("a") == 0.0
        attempts.wrong("a")
        waits.append(attempts.wait_s("a"))
    assert waits[: FREE - 1] == [0.0] * (FREE - 1)
    assert waits[FREE - 1 : FREE + 3] == pytest.approx([2.6, 5.2, 9.0, 13.0])
    assert waits[-1] == pytest.approx(305.0)
    assert attempts.wait_s("b") == 0.0
    clock[0] += FORGOTTEN_AFTER_S + 1
    assert attempts.wait_s("a") == 0.0
    assert attempts.wrong("a")[0] == 1


def test_guesses_of_an_hour_from_one_address_are_few():
    clock, guesses = [0.0], 0
    attempts = Attempts(monotonic=lambda: clock[0])
    while clock[0] < 3600:
        if attempts.wait_s("a") == 0.0:
            attempts.wrong("a")
            guesses += 1
        clock[0] += 0.25
    assert guesses < 30


def test_of_many_addresses_few_guesses_are_looked_at_and_few_are_remembered():
    clock = [0.0]
    attempts = Attempts(monotonic=lambda: clock[0])
    looked = 0
    for i in range(3 * ADDRESSES):
        address = f"10.0.{i // 256}.{i % 256}"
        if attempts.wait_s(address) == 0.0:
            attempts.wrong(address)
            looked += 1
        clock[0] += 0.01  # 30 s in all
    assert looked == ALL_PER_MINUTE
    assert len(attempts._failures) == ADDRESSES


def test_a_network_of_ipv6_is_one_address_and_whoever_is_in_stays_in():
    attempts = Attempts(monotonic=lambda: 0.0)
    for i in range(FREE):
        attempts.wrong(f"2001:db8::{i:x}")
    assert attempts.wait_s("2001:db8::ffff") > 0
    assert attempts.wait_s("2001:db8:0:1::1") == 0.0
    attempts.right("good")
    assert attempts.known("good")
    assert not attempts.known("bad")

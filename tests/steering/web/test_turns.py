from __future__ import annotations

import asyncio

import pytest

from steering.web.turns import QueueFullError, Turns, UserGoneError
from tests.told import told_in_time


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def test_users_take_turns_however_many_jobs_one_has():
    async def play() -> list[str]:
        turns, order = Turns(per_user=3), []

        async def job(user: str) -> None:
            async with turns.turn(user):
                order.append(user)
                await settle()

        async with asyncio.TaskGroup() as group:
            for user in ("a", "a", "a", "b", "c"):
                group.create_task(job(user))
        return order

    assert asyncio.run(play()) == ["a", "a", "b", "c", "a"]


def test_queues_are_bounded_for_each_and_for_all():
    async def play() -> None:
        turns, done = Turns(per_user=2, in_all=3), asyncio.Event()

        async def job(user: str) -> None:
            async with turns.turn(user):
                await done.wait()

        async with asyncio.TaskGroup() as group:
            for user in ("a", "a", "b"):
                group.create_task(job(user))
            await settle()
            with (
                told_in_time(),
                pytest.raises(QueueFullError, match="2 of yours; expected at most 2") as full,
            ):
                await job("a")
            assert full.value.retry_after_s >= 1
            with told_in_time(), pytest.raises(QueueFullError, match="3; expected at most 3"):
                await job("c")
            done.set()
        await job("c")

    asyncio.run(play())


def test_who_leaves_frees_the_place(monkeypatch):
    monkeypatch.setattr("steering.web.turns.LOOK_SECONDS", 0.01)

    async def play() -> None:
        turns, done = Turns(per_user=1, in_all=2), asyncio.Event()

        async def job(user: str) -> None:
            async with turns.turn(user):
                await done.wait()

        async def left() -> bool:
            return True

        first = asyncio.create_task(job("a"))
        await settle()
        with pytest.raises(UserGoneError):
            async with turns.turn("b", left):
                pytest.fail("the turn was another's")
        cancelled = asyncio.create_task(job("b"))
        await settle()
        cancelled.cancel()
        await asyncio.wait([cancelled])
        done.set()
        await first
        await asyncio.wait_for(job("b"), 5)

    asyncio.run(play())


def test_a_job_that_fails_passes_the_turn_on():
    async def play() -> None:
        turns = Turns()
        with pytest.raises(ZeroDivisionError):
            async with turns.turn("a"):
                _ = 1 / 0
        async with turns.turn("a"):
            pass

    asyncio.run(play())

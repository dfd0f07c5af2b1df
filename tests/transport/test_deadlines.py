"""The sweep: what is overdue expires, once and in one round; what left is not touched; chores run each time."""

import asyncio
import itertools
import math

import pytest

from robin.testing.waiting import eventually
from robin.transport.deadlines import GRAIN_S, Sweeper, TaskDeadline


class Item:
    def __init__(self, deadline_at: float, expired: list["Item"]) -> None:
        self.deadline_at = deadline_at
        self._expired = expired

    def expire(self) -> None:
        self.deadline_at = math.inf
        self._expired.append(self)


async def test_only_what_is_overdue_expires_and_only_once():
    loop, expired = asyncio.get_running_loop(), []
    sweeper = Sweeper(loop)
    overdue, later, never = (Item(loop.time() + offset, expired) for offset in (-1, 60, math.inf))
    for item in (overdue, later, never):
        sweeper.add(item)
    sweeper.sweep()
    sweeper.sweep()
    sweeper.close()
    assert expired == [overdue]


async def test_what_was_discarded_does_not_expire():
    loop, expired = asyncio.get_running_loop(), []
    sweeper = Sweeper(loop)
    item = Item(loop.time() - 1, expired)
    sweeper.add(item)
    sweeper.discard(item)
    sweeper.discard(item)
    sweeper.sweep()
    sweeper.close()
    assert (expired, len(sweeper)) == ([], 0)


async def test_an_item_may_discard_itself_and_others_while_it_expires():
    loop, expired = asyncio.get_running_loop(), []
    sweeper = Sweeper(loop)
    items = [Item(loop.time() - 1, expired) for _ in range(3)]

    class Leaving(Item):
        def expire(self) -> None:
            super().expire()
            for item in (self, *items):
                sweeper.discard(item)

    for item in (Leaving(loop.time() - 1, expired), *items):
        sweeper.add(item)
    sweeper.sweep()
    sweeper.close()
    assert len(sweeper) == 0


async def test_it_sweeps_by_itself_and_stops_when_closed():
    loop, expired, rounds = asyncio.get_running_loop(), [], []
    sweeper = Sweeper(loop)
    sweeper.every_sweep(rounds.append)
    sweeper.start()
    item = Item(loop.time() + GRAIN_S, expired)
    sweeper.add(item)
    began = loop.time()
    await eventually(lambda: expired, what="the deadline to be swept")
    assert GRAIN_S <= loop.time() - began < GRAIN_S * 8
    assert rounds == sorted(rounds)
    assert all(later - earlier >= GRAIN_S * 0.9 for earlier, later in itertools.pairwise(rounds))
    sweeper.close()
    seen, others = len(rounds), []
    other = Sweeper(loop)
    other.every_sweep(others.append)
    other.start()
    await eventually(lambda: len(others) >= 2, what="two sweeps of another that is not closed")
    other.close()
    assert len(rounds) == seen


async def test_a_block_that_takes_too_long_ends_with_a_timeout_at_the_sweep_behind_its_deadline():
    loop = asyncio.get_running_loop()
    sweeper = Sweeper(loop)
    never = loop.create_future()

    async def wait(deadline_at: float, moved_to: float | None = None) -> str:
        try:
            with TaskDeadline(sweeper, deadline_at) as deadline:
                deadline.deadline_at = deadline_at if moved_to is None else moved_to
                await asyncio.shield(never)
        except TimeoutError:
            return "timeout"
        return "done"

    early, late = loop.time() - 1, loop.time() + 60
    tasks = [asyncio.create_task(wait(*when)) for when in ((early,), (late,), (math.inf,), (early, late), (late, early))]
    await asyncio.sleep(0)
    sweeper.sweep()
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    await asyncio.sleep(0)
    never.set_result(None)
    assert await asyncio.gather(*tasks) == ["timeout", "done", "done", "done", "timeout"]
    assert len(sweeper) == 0
    assert [task.cancelling() for task in tasks] == [0] * 5
    sweeper.close()


@pytest.mark.parametrize("sweeps", [False, True])
async def test_a_cancellation_by_others_goes_through_a_block_that_is_bounded(sweeps: bool):
    loop = asyncio.get_running_loop()
    sweeper = Sweeper(loop)

    async def wait() -> None:
        with TaskDeadline(sweeper, loop.time() - 1):
            await loop.create_future()

    task = asyncio.create_task(wait())
    await asyncio.sleep(0)
    task.cancel()
    if sweeps:  # the deadline passes in the turn in which it is cancelled
        sweeper.sweep()
    await asyncio.wait([task])
    assert (task.cancelled(), len(sweeper)) == (True, 0)
    sweeper.close()


async def test_what_a_bounded_block_raises_is_not_hidden_by_its_deadline():
    loop = asyncio.get_running_loop()
    sweeper = Sweeper(loop)

    async def fail() -> None:
        with TaskDeadline(sweeper, loop.time() - 1):
            try:
                await loop.create_future()
            except asyncio.CancelledError:
                raise ConnectionResetError from None

    task = asyncio.create_task(fail())
    await asyncio.sleep(0)
    sweeper.sweep()
    await asyncio.wait([task])
    assert (type(task.exception()), task.cancelling(), len(sweeper)) == (ConnectionResetError, 0, 0)
    sweeper.close()

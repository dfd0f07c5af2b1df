"""The sweep: what is overdue expires, once and in one round; what left is not touched; chores run each time."""

import asyncio
import itertools
import math

from robin.testing.waiting import eventually
from robin.transport.deadlines import GRAIN_S, Sweeper


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

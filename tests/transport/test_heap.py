"""The heap: trimmed once at the start, then only after connections have closed, and not too often; and glibc does give back."""

import asyncio
import os
import subprocess
import sys

import pytest

from robin.transport.deadlines import Sweeper
from robin.transport.heap import EVERY_S, Heap, trimming

_RIDDLED = """
from pathlib import Path
from robin.transport.heap import trimming

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 >> 20

pieces, pins = [], []
for _ in range(1000):
    pieces.append(b"x" * 60000)
    pins.append(b"x" * 600)
full = resident()
del pieces
freed = resident()
trimming()()
print(full, freed, resident())
"""


class Trimmed:
    """Counts how often it was trimmed."""

    def __init__(self) -> None:
        self.times = 0

    def __call__(self) -> None:
        self.times += 1


class Item:
    deadline_at = 0.0

    def expire(self) -> None:
        raise AssertionError


async def test_what_starting_up_left_goes_back_and_then_only_what_connections_leave():
    sweeper, trim = Sweeper(asyncio.get_running_loop()), Trimmed()
    heap = Heap(sweeper, trim)
    heap.tidy(EVERY_S)
    heap.tidy(100.0)
    assert trim.times == 1
    sweeper.discard(Item())
    heap.tidy(100.0)
    heap.tidy(200.0)
    assert trim.times == 2


async def test_many_closings_are_one_trimming_within_its_time():
    sweeper, trim = Sweeper(asyncio.get_running_loop()), Trimmed()
    heap = Heap(sweeper, trim)
    heap.tidy(100.0)
    for now in (100.5, 101.0, 101.9):
        sweeper.discard(Item())
        heap.tidy(now)
    assert trim.times == 1
    heap.tidy(100.0 + EVERY_S)
    assert trim.times == 2


@pytest.mark.skipif(trimming() is None, reason="this C library has no malloc_trim(3)")
def test_a_riddled_heap_is_given_back():
    environ = {key: value for key, value in os.environ.items() if not key.startswith("MALLOC_")}
    told = subprocess.run([sys.executable, "-c", _RIDDLED], capture_output=True, text=True, check=True, env=environ, timeout=30)
    full, freed, trimmed = map(int, told.stdout.split())
    assert full - freed < 10, "else glibc gives back by itself, and there is nothing to show"
    assert full - trimmed > 40

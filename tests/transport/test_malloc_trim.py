"""The heap: trimmed once at the start, then only after connections have closed, and not too often; and glibc does give back."""

import asyncio
import os
import subprocess
import sys

import pytest

from robin.transport.deadlines import Sweeper
from robin.transport.malloc_trim import EVERY_S, MallocTrimmer, find_malloc_trim

_RIDDLED = """
import resource
from pathlib import Path
from robin.transport.malloc_trim import find_malloc_trim

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() >> 20

pieces, pins = [], []
for _ in range(1000):
    pieces.append(b"x" * 60000)
    pins.append(b"x" * 9000)  # larger than the holes that the imports left
full = resident()
del pieces
freed = resident()
find_malloc_trim()()
print(full, freed, resident())
"""


class Trimmed:
    """Counts how often it was trimmed; each time takes `took_s` of its clock."""

    def __init__(self, took_s: float = 0.001) -> None:
        self.times = 0
        self._took_s = took_s
        self._now = 0.0

    def __call__(self) -> None:
        self.times += 1
        self._now += self._took_s

    def monotonic(self) -> float:
        return self._now


class Item:
    deadline_at = 0.0

    def expire(self) -> None:
        raise AssertionError


async def test_what_starting_up_left_goes_back_and_then_only_what_connections_leave():
    sweeper, trim = Sweeper(asyncio.get_running_loop()), Trimmed()
    heap = MallocTrimmer(sweeper, trim, trim.monotonic)
    heap.run(1.0)
    heap.run(100.0)
    assert trim.times == 1
    sweeper.discard(Item())
    heap.run(100.0)
    heap.run(200.0)
    assert trim.times == 2


@pytest.mark.parametrize(("took_s", "pause_s"), [(0.001, EVERY_S), (0.05, 5.0)])
async def test_many_closings_are_one_trimming_and_it_takes_a_hundredth_of_the_time_at_most(took_s: float, pause_s: float):
    sweeper, trim = Sweeper(asyncio.get_running_loop()), Trimmed(took_s)
    heap = MallocTrimmer(sweeper, trim, trim.monotonic)
    heap.run(100.0)
    for part in (0.1, 0.5, 0.99):
        sweeper.discard(Item())
        heap.run(100.0 + pause_s * part)
    assert trim.times == 1
    heap.run(100.0 + pause_s)
    assert trim.times == 2


@pytest.mark.skipif(find_malloc_trim() is None, reason="this C library has no malloc_trim(3)")
def test_a_riddled_heap_is_given_back():
    environ = {key: value for key, value in os.environ.items() if not key.startswith(("MALLOC_", "GLIBC_TUNABLES", "LD_PRELOAD"))}
    told = subprocess.run([sys.executable, "-c", _RIDDLED], capture_output=True, text=True, check=True, env=environ, timeout=30)
    full, freed, trimmed = map(int, told.stdout.split())
    assert full - freed < 10, "else glibc gives back by itself, and there is nothing to show"
    assert full - trimmed > 40


def test_a_python_without_ctypes_goes_without():
    program = (
        'import sys; sys.modules["ctypes"] = None; from robin.transport.malloc_trim import find_malloc_trim; print(find_malloc_trim())'
    )
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=30)
    assert told.stdout == "None\n"

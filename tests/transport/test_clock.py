"""The machine's clocks are the ones they claim to be."""

import asyncio
import time

import uvloop

from robin.transport.clock import SystemClock


def test_wall_is_the_epoch_and_monotonic_is_clock_monotonic():
    before, clock = (time.time(), time.clock_gettime(time.CLOCK_MONOTONIC)), SystemClock()
    wall, monotonic = clock.wall(), clock.monotonic()
    assert before[0] <= wall <= time.time()
    assert before[1] <= monotonic <= time.clock_gettime(time.CLOCK_MONOTONIC)


def test_monotonic_is_the_clock_of_the_event_loop():
    async def both() -> tuple[float, float]:
        return SystemClock().monotonic(), asyncio.get_running_loop().time()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        ours, loops = runner.run(both())
    assert abs(ours - loops) < 1

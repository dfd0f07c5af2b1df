"""How a sidecar ends, as far as it takes no process; the rest is in tests/journeys/test_drain.py."""

import asyncio
import json
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from robin.planes.sidecar import ending
from robin.planes.sidecar.ending import Ending
from robin.telemetry.logs import EventLog
from robin.telemetry.writer import LineWriter


class Room:
    """An Ending, and what it wrote."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = path.open("wb")
        self._writer = LineWriter(self._file.fileno())
        events = EventLog(self._writer, level="info", style="json", wall=lambda: 0.0, monotonic=lambda: 0.0)
        self.drained = asyncio.Event()
        self.ending = Ending(self.drained, events)

    def close(self) -> None:
        self._writer.close()
        self._file.close()

    def events(self) -> list[tuple[str, str]]:
        """Nothing is written afterwards."""
        self.close()
        return [(line["event"], line["signal"]) for line in map(json.loads, self._path.read_text().splitlines())]


@pytest.fixture
def room(tmp_path: Path) -> Iterator[Room]:
    room = Room(tmp_path / "log")
    yield room
    room.close()


def test_the_exit_codes_are_the_public_ones():
    codes = (ending.EXIT_DRAINED, ending.EXIT_FAILED, ending.EXIT_SETTINGS, ending.EXIT_BIND, ending.EXIT_CUT, ending.EXIT_STARTUP)
    assert codes == (0, 1, 2, 3, 4, 5)


async def test_the_first_signal_drains_and_the_second_ends(room: Room):
    room.ending.signalled(signal.SIGTERM)
    await room.ending.wait()
    assert (room.ending.asked, room.ending.code, room.drained.is_set()) == (True, None, False)
    room.ending.signalled(signal.SIGINT)
    assert (room.ending.code, room.drained.is_set()) == (128 + signal.SIGINT, True)
    assert room.events() == [("signal", "SIGTERM")]


async def test_a_signal_after_a_quit_is_the_first_signal(room: Room):
    room.ending.begin_drain()
    room.ending.begin_drain()
    room.ending.signalled(signal.SIGTERM)
    assert room.ending.code is None


async def test_of_two_exit_codes_the_first_stands(room: Room):
    room.ending.end(ending.EXIT_FAILED)
    room.ending.end(ending.EXIT_STARTUP)
    await room.ending.wait()
    assert room.ending.code == ending.EXIT_FAILED


async def test_a_wait_for_the_last_exchange_ends_with_it_or_at_its_deadline(room: Room):
    now = asyncio.get_running_loop().time()
    assert await room.ending.wait_until_empty(now) is False
    waiting = asyncio.ensure_future(room.ending.wait_until_empty(now + 60))
    await asyncio.sleep(0)
    assert not waiting.done()
    room.ending.end(ending.EXIT_FAILED)
    assert await waiting is True

"""How a process ends, as far as it takes no process; the rest is in tests/journeys/test_drain.py."""

import asyncio
import json
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from robin.app import shutdown
from robin.app.shutdown import Shutdown
from robin.proxy.drain import LINGERING, Drain
from robin.telemetry.logs import EventLog
from robin.telemetry.writer import LineWriter


class Rig:
    """A Shutdown, its Drain, and the events that it wrote."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = path.open("wb")
        self._writer = LineWriter(self._file.fileno())
        self.drain = Drain()
        self.shutdown = Shutdown(self.drain, EventLog(self._writer, level="info", style="json", wall=lambda: 0.0, monotonic=lambda: 0.0))

    def close(self) -> None:
        self._writer.close()
        self._file.close()

    def events(self) -> list[tuple[str, str]]:
        """The events so far; nothing is written afterwards."""
        self.close()
        return [(line["event"], line["signal"]) for line in map(json.loads, self._path.read_text().splitlines())]


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    rig = Rig(tmp_path / "log")
    yield rig
    rig.close()


async def test_the_first_signal_drains_and_the_second_ends(rig: Rig):
    rig.shutdown.on_signal(signal.SIGTERM)
    await rig.shutdown.wait()
    assert (rig.drain.state, rig.shutdown.code, rig.drain.drained.is_set()) == (LINGERING, None, False)
    rig.shutdown.on_signal(signal.SIGINT)
    assert (rig.shutdown.code, rig.drain.drained.is_set()) == (128 + signal.SIGINT, True)
    assert rig.events() == [("signal", "SIGTERM")]


async def test_a_signal_after_a_quit_is_the_first_signal(rig: Rig):
    rig.shutdown.begin_drain()
    rig.shutdown.begin_drain()
    rig.shutdown.on_signal(signal.SIGTERM)
    assert rig.shutdown.code is None


async def test_of_two_exit_codes_the_first_stands(rig: Rig):
    rig.shutdown.end(shutdown.EXIT_FAILED)
    rig.shutdown.end(shutdown.EXIT_STARTUP)
    await rig.shutdown.wait()
    assert rig.shutdown.code == shutdown.EXIT_FAILED


async def test_a_wait_for_the_drain_ends_with_it_or_at_its_deadline(rig: Rig):
    now = asyncio.get_running_loop().time()
    assert await rig.shutdown.wait_until_drained(now) is False
    waiting = asyncio.ensure_future(rig.shutdown.wait_until_drained(now + 60))
    await asyncio.sleep(0)
    assert not waiting.done()
    rig.shutdown.end(shutdown.EXIT_FAILED)
    assert await waiting is True

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
from robin.telemetry.metrics import Metrics
from robin.telemetry.writer import LineWriter
from robin.transport.tasks import TaskOwner


class Rig:
    """A Shutdown, its Drain, and the events that it wrote."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = path.open("wb")
        self._writer = LineWriter(self._file.fileno())
        events = EventLog(self._writer, level="info", style="json", wall=lambda: 0.0, monotonic=lambda: 0.0)
        self.metrics = Metrics(version="0", unsafe={})
        self.drain = Drain(self.metrics)
        self.shutdown = Shutdown(self.drain, TaskOwner(lambda name, error: None), events, self.metrics)

    def close(self) -> None:
        self._writer.close()
        self._file.close()

    def events(self) -> list[tuple[str, str]]:
        """The events so far; nothing is written afterwards."""
        self.close()
        return [(line["event"], line["signal"]) for line in map(json.loads, self._path.read_text().splitlines())]


class Connection:
    """A connection with one request in flight, which leaves when it is asked to end, or does not."""

    def __init__(self, rig: Rig, *, leaves: bool) -> None:
        self._rig = rig
        self._leaves = leaves
        self.asked_to_end = False

    async def begin(self) -> None:
        self._rig.metrics.in_flight += 1
        self._rig.drain.connected(self)

    def begin_closing(self) -> None:
        self.asked_to_end = True
        if self._leaves:
            self._rig.metrics.in_flight -= 1
            asyncio.get_running_loop().call_soon(self._rig.drain.disconnected, self)

    def detect_disconnect(self) -> None:
        pass


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


@pytest.mark.parametrize(("leaves", "code"), [(True, shutdown.EXIT_DRAINED), (False, shutdown.EXIT_CUT)])
async def test_a_connection_that_is_accepted_in_the_last_moment_is_waited_for_until_the_deadline(rig: Rig, leaves: bool, code: int):
    """Its task is made, and has not run yet, when the sockets are closed."""
    connection = Connection(rig, leaves=leaves)
    rig.shutdown.begin_drain()
    begun: list[asyncio.Task[None]] = []
    drained = await rig.shutdown.drain(
        min_s=0,
        max_s=60 if leaves else 0,
        stop_accepting=lambda: begun.append(asyncio.ensure_future(connection.begin())),
        flush=lambda: None,
    )
    assert drained == code
    assert connection.asked_to_end
    await begun[0]


async def test_a_drain_ends_at_once_when_the_process_is_to_end(rig: Rig):
    rig.shutdown.begin_drain()
    draining = asyncio.ensure_future(rig.shutdown.drain(min_s=60, max_s=60, stop_accepting=lambda: None, flush=lambda: None))
    await asyncio.sleep(0)
    assert not draining.done()
    rig.shutdown.end(shutdown.EXIT_FAILED)
    assert await draining == shutdown.EXIT_FAILED

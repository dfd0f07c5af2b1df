"""Lines leave in order and whole; a full, blocked or broken descriptor costs counted lines and never stops who writes (P3)."""

import contextlib
import fcntl
import os
import socket
import sys
import termios
from collections.abc import Iterator
from pathlib import Path

import pytest

from robin.telemetry import names
from robin.telemetry.writer import PIPE_BUF, LineWriter
from robin.testing.waiting import eventually

LINE = "x" * 99 + "\n"


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """A pipe that holds 4 KiB: its reading and its writing end."""
    reading, writing = os.pipe()
    fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 4096)
    yield reading, writing
    for end in (reading, writing):
        with contextlib.suppress(OSError):  # a test may have closed it
            os.close(end)


def read_all(reading: int) -> str:
    """Everything up to the end of the pipe."""
    text = b""
    while piece := os.read(reading, 65536):
        text += piece
    return text.decode()


def test_lines_are_written_whole_and_in_order_before_close_returns(pipe):
    reading, writing = pipe
    writer = LineWriter(writing)
    for number in range(20):
        writer.put([f"line {number} \u00e9\n"])
    writer.close()
    os.close(writing)
    assert read_all(reading) == "".join(f"line {number} \u00e9\n" for number in range(20))
    assert writer.dropped == 0


def test_what_is_written_at_once_is_whole_or_not_written(pipe):
    reading, writing = pipe
    writer = LineWriter(writing)
    assert writer.write_now(b"x" * 3000)
    assert not writer.write_now(b"y" * 3000)  # there is no room
    assert os.read(reading, 8192) == b"x" * 3000
    assert writer.write_now(b"z" * PIPE_BUF)
    assert os.read(reading, 8192) == b"z" * PIPE_BUF
    os.close(reading)
    assert not writer.write_now(b"nobody reads this")
    assert writer.write_through(b"nor this") == 0
    writer.close()


@pytest.mark.parametrize("kind", ["file", "socket", "terminal", "closed"])
def test_what_could_be_written_in_part_is_not_written_at_once(tmp_path: Path, kind: str):
    ends: list[int] = []
    if kind == "file":
        ends.append(os.open(tmp_path / "out", os.O_WRONLY | os.O_CREAT))
    elif kind == "socket":
        ends += [end.detach() for end in socket.socketpair()]
    elif kind == "terminal":
        ends += reversed(os.openpty())
    else:
        ends.append(os.open("/dev/null", os.O_WRONLY))
        os.close(ends[0])
    writer = LineWriter(ends[0])
    assert not writer.write_now(b"line\n")
    writer.close()
    for end in ends:
        with contextlib.suppress(OSError):
            os.close(end)


def test_a_python_without_such_a_write_leaves_it_to_the_thread(pipe, monkeypatch: pytest.MonkeyPatch):
    _, writing = pipe
    monkeypatch.delattr(os, "RWF_NOWAIT")  # as where the C library has no pwritev2
    writer = LineWriter(writing)
    assert not writer.write_now(b"line\n")
    assert writer.write_through(b"line\n") == 5
    writer.close()


async def test_a_line_is_written_without_a_further_one(pipe):
    reading, writing = pipe
    os.set_blocking(reading, False)
    writer = LineWriter(writing)
    for text in ("first\n", "second\n"):  # the second finds the thread asleep again
        writer.put([text])
        assert await eventually(lambda: _read_now(reading), what="the line") == text.encode()
    writer.close()


def _read_now(reading: int) -> bytes:
    try:
        return os.read(reading, 65536)
    except BlockingIOError:
        return b""


def test_a_blocked_pipe_drops_and_counts_and_never_stops_who_writes(pipe):
    reading, writing = pipe
    writer = LineWriter(writing, limit_bytes=10_000)
    for _ in range(10_000):
        writer.put([LINE])  # nobody reads: 4 KiB in the pipe, 10,000 characters waiting, the rest is dropped
    refused = writer.dropped
    assert refused >= 10_000 - 41 - 100
    assert [(name.name, value) for name, _, value in writer.readings()] == [("robin_access_records_dropped_total", refused)]
    os.close(reading)
    writer.close()  # the thread met the closed pipe: what waited is lost, and counted too
    assert refused < writer.dropped <= 10_000


async def test_close_is_bounded_when_nobody_reads_and_nothing_is_written_after_it(pipe):
    reading, writing = pipe
    os.set_blocking(reading, False)
    writer = LineWriter(writing, limit_bytes=400_000)
    for _ in range(2000):
        writer.put([LINE])
    await eventually(lambda: _waiting_bytes(reading) == 4096, what="the thread to block in its first write")
    writer.close(timeout_s=0.05)  # returning at all is the point
    assert writer.dropped == 0
    writer.put([LINE])
    assert writer.dropped == 1
    got = bytearray()
    await eventually(lambda: got.extend(_read_now(reading)) or not writer._thread.is_alive(), what="the thread to give up")
    got += _read_now(reading)
    assert len(got) % len(LINE) == 0  # the write that was under way ended whole
    assert 0 < len(got) // len(LINE) <= 512
    assert writer.dropped == 1 + 2000 - len(got) // len(LINE)


def _waiting_bytes(reading: int) -> int:
    return int.from_bytes(fcntl.ioctl(reading, termios.FIONREAD, b"\0\0\0\0"), sys.byteorder)


def test_after_a_stall_the_reader_gets_whole_lines_and_every_line_is_accounted_for(pipe):
    reading, writing = pipe
    writer = LineWriter(writing, limit_bytes=20_000)
    for number in range(2000):
        writer.put([f"{number:099d}\n"])
    refused = writer.dropped
    assert refused >= 2000 - 200 - 41
    got = ""
    while got.count("\n") < 2000 - refused:
        got += os.read(reading, 65536).decode()
    writer.close()
    numbers = [int(line) for line in got.splitlines()]
    assert numbers == sorted(set(numbers))
    assert len(numbers) + writer.dropped == 2000


async def test_a_closed_pipe_costs_lines_only(pipe):
    reading, writing = pipe
    os.close(reading)
    writer = LineWriter(writing)
    writer.put([LINE])
    await eventually(lambda: writer.dropped == 1, what="the loss to be counted")
    writer.put([LINE])
    await eventually(lambda: writer.dropped == 2, what="the second loss")
    writer.close()


def test_a_nonblocking_descriptor_loses_nothing_while_somebody_reads(pipe):
    reading, writing = pipe
    os.set_blocking(writing, False)
    writer = LineWriter(writing)
    for number in range(500):
        writer.put([f"{number:099d}\n"])
    got = ""
    while got.count("\n") < 500:
        got += os.read(reading, 65536).decode()
    writer.close()
    assert [int(line) for line in got.splitlines()] == list(range(500))
    assert writer.dropped == 0


def test_its_reading_belongs_to_the_table():
    assert names.ACCESS_RECORDS_DROPPED in names.METRICS

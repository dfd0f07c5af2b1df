"""One read of the token file: whole, or a SourceFailure that says why, whatever stands at the path (M4)."""

import asyncio
import os
import threading
import time
from pathlib import Path

import pytest

from robin.identity.source import SourceFailure
from robin.identity.sources.file import FileSource
from robin.model.secret import Secret
from robin.telemetry.identity_metrics import IdentityMetrics
from robin.testing.tokens import make_token
from robin.wire.jwt_inspection import fingerprint


def source_of(path: Path) -> FileSource:
    return FileSource(str(path), IdentityMetrics("file"))


async def failure_of(path: Path) -> tuple[str, str]:
    with pytest.raises(SourceFailure) as raised:
        async with asyncio.timeout(30):
            await source_of(path).fetch(None)
    assert raised.value.detail.startswith(raised.value.label + ": ")
    return raised.value.label, raised.value.fault


async def test_a_file_is_read_to_its_end(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_bytes(b"abc\n")
    raw = await source_of(path).fetch("anything")
    assert fingerprint(raw.text) == fingerprint(Secret(b"abc\n"))
    assert raw.issued_to is None


async def test_symlinks_are_followed(tmp_path: Path) -> None:
    (tmp_path / "real").write_bytes(b"abc")
    (tmp_path / "one").symlink_to("real")
    (tmp_path / "two").symlink_to("one")
    assert len((await source_of(tmp_path / "two").fetch(None)).text) == 3


async def test_nothing_at_the_path_is_missing(tmp_path: Path) -> None:
    assert await failure_of(tmp_path / "token") == ("missing", "identity_unavailable")
    (tmp_path / "file").write_bytes(b"")
    assert await failure_of(tmp_path / "file" / "token") == ("missing", "identity_unavailable")


async def test_a_dangling_or_circular_link_is_no_token(tmp_path: Path) -> None:
    (tmp_path / "dangling").symlink_to("nowhere")
    (tmp_path / "circle").symlink_to("circle")
    assert await failure_of(tmp_path / "dangling") == ("missing", "identity_unavailable")
    assert await failure_of(tmp_path / "circle") == ("unreadable", "identity_unavailable")


async def test_a_directory_is_no_token_file(tmp_path: Path) -> None:
    assert await failure_of(tmp_path) == ("not_a_file", "identity_unavailable")


async def test_a_fifo_is_no_token_file_and_does_not_hang(tmp_path: Path) -> None:
    path = tmp_path / "fifo"
    os.mkfifo(path)
    assert await failure_of(path) == ("not_a_file", "identity_unavailable")


async def test_a_device_is_no_token_file() -> None:
    assert await failure_of(Path("/dev/zero")) == ("not_a_file", "identity_unavailable")


async def test_a_socket_is_no_token_file(tmp_path: Path) -> None:
    server = await asyncio.start_unix_server(lambda _reader, _writer: None, tmp_path / "socket")
    try:
        assert await failure_of(tmp_path / "socket") == ("unreadable", "identity_unavailable")
    finally:
        server.close()


async def test_a_huge_file_is_refused_without_being_read(tmp_path: Path) -> None:
    path = tmp_path / "huge"
    with path.open("wb") as file:
        file.truncate(1 << 34)
    assert await failure_of(path) == ("too_large", "identity_malformed")


async def test_a_file_that_may_not_be_read_is_unreadable(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_bytes(b"abc")
    path.chmod(0)
    was = os.geteuid()
    if was == 0:
        os.seteuid(65534)  # root may read everything
    try:
        assert await failure_of(path) == ("unreadable", "identity_unavailable")
    finally:
        os.seteuid(was)


async def test_a_file_that_changes_under_the_reader_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "token"
    path.write_bytes(b"old")
    source = FileSource(str(path), metrics := IdentityMetrics("file"))
    read, pending = os.read, [b"newer"]

    def read_then_write(descriptor: int, size: int) -> bytes:
        piece = read(descriptor, size)
        if pending:
            path.write_bytes(pending.pop())
        return piece

    monkeypatch.setattr(os, "read", read_then_write)
    assert fingerprint((await source.fetch(None)).text) == fingerprint(Secret(b"newer"))
    assert metrics.torn_reads == 1


async def test_a_file_that_never_stands_still_is_torn_after_three_tries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "token"
    path.write_bytes(b"x")
    source = FileSource(str(path), metrics := IdentityMetrics("file"))
    read = os.read

    def read_then_touch(descriptor: int, size: int) -> bytes:
        os.utime(path)
        return read(descriptor, size)

    monkeypatch.setattr(os, "read", read_then_touch)
    with pytest.raises(SourceFailure, match="torn"):
        await source.fetch(None)
    assert metrics.torn_reads == 3


async def test_no_read_under_a_careless_writer_is_a_mixture(tmp_path: Path) -> None:
    path = tmp_path / "token"
    tokens = [make_token(expires_at=1) for _ in range(8)]
    whole = {fingerprint(Secret(token)) for token in tokens}
    path.write_bytes(tokens[0])
    stop = threading.Event()

    def write_carelessly() -> None:
        number = 0
        while not stop.is_set():
            token = tokens[number % len(tokens)]
            number += 1
            with path.open("wb", buffering=0) as file:
                for at in range(0, len(token), 7):
                    file.write(token[at : at + 7])
            stop.wait(0.001)

    writer = threading.Thread(target=write_carelessly)
    writer.start()
    source = source_of(path)
    seen: set[bytes] = set()
    prefixes = {fingerprint(Secret(token[:size])) for token in tokens for size in range(len(token))}
    try:
        until = time.monotonic() + 2
        while time.monotonic() < until or not seen & whole:
            try:
                seen.add(fingerprint((await source.fetch(None)).text))
            except SourceFailure:
                continue
            finally:
                await asyncio.sleep(0.0002)  # the writer is a thread: reads without a pause would leave it no parts between them
    finally:
        stop.set()
        writer.join()
    assert seen <= whole | prefixes, "a mixture of two tokens was read"


async def test_no_descriptor_is_left_open_by_any_outcome(tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    (tmp_path / "token").write_bytes(b"x")
    (tmp_path / "large").write_bytes(bytes(100_000))
    os.mkfifo(tmp_path / "fifo")
    for name in ("token", "large", "fifo", "missing", "."):
        for _ in range(10):
            try:
                await source_of(tmp_path / name).fetch(None)
            except SourceFailure:
                continue
    assert len(os.listdir("/proc/self/fd")) == before

"""The audit log keeps what it returned for, goes on after a crash, a full disk and a rename, and never holds up the event loop."""

import asyncio
import contextlib
import errno
import fcntl
import hashlib
import io
import os
import resource
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from tests.telemetry.audit_rig import Folder, decision, values_of
from tests.telemetry.test_audit_verify import judge

from robin.telemetry.audit import AuditLog
from robin.telemetry.audit_chain import LINE_BYTES, ZEROS, Draft, RecordError, draft_of, parse_line
from robin.telemetry.audit_file import AuditFile, AuditUnavailable, load_checkpoint_key
from robin.telemetry.audit_stream import AuditStream
from robin.telemetry.audit_verify import verify
from robin.telemetry.writer import LineWriter
from robin.testing.waiting import eventually


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


class Disk:
    """Syncs that are counted, held up while `slow` is set, and fail while `broken` is."""

    def __init__(self) -> None:
        self.syncs = 0
        self.broken = False
        self.open = threading.Event()
        self.open.set()

    def sync(self, fd: int) -> None:
        self.open.wait(30)
        if self.broken:
            raise OSError(5, "Input/output error")
        os.fdatasync(fd)
        self.syncs += 1


def is_good(folder: Folder) -> bool:
    return judge(folder, folder.log.read_bytes())[1] is None


async def test_a_record_is_one_line_of_the_chain_before_append_returns(folder: Folder):
    async with folder.opened() as log:
        await log.append(decision(1, path="/caf\u00e9\n", refused=["a", None, True]))
        *_, record = folder.records()
        assert list(record) == ["v", "seq", "prev", "hash", "ts", "plane", "event", "id", "n", "path", "refused"]
        assert values_of(record, "v", "seq", "ts", "plane") == (1, 3, "2026-05-28T20:26:40.000Z", "test")
        assert values_of(record, "event", "id", "n", "path", "refused") == ("request.decided", "id-1", 1, "/caf\u00e9\n", ["a", None, True])
    assert is_good(folder)
    assert [stat.S_IMODE(path.stat().st_mode) for path in (folder.log, folder.log.with_name("audit.jsonl.lock"))] == [0o600, 0o600]


async def test_a_stream_without_a_record_has_no_line():
    reader, fd = os.pipe()
    writer = LineWriter(fd)
    log = AuditLog(AuditStream(writer, plane="test", wall=lambda: 0.0), monotonic=time.monotonic)
    assert await log.close()
    writer.close()
    os.close(fd)
    assert os.read(reader, 1) == b""
    os.close(reader)


async def test_a_log_opens_with_the_last_hash_and_closes_with_a_checkpoint(folder: Folder):
    for number in range(2):
        async with folder.opened() as log:
            await log.append(decision(number))
    first, _, _, closed, second, *_ = folder.records()
    assert values_of(first, "event", "reason", "prev", "last") == ("audit.open", "created", ZEROS, ZEROS)
    assert values_of(closed, "event", "reason", "seq") == ("audit.checkpoint", "close", 4)
    assert values_of(second, "event", "reason", "prev", "last") == ("audit.open", "continued", closed["hash"], closed["hash"])


async def test_a_checkpoint_follows_each_so_many_records(folder: Folder):
    async with folder.opened(every=3) as log:
        await asyncio.gather(*(log.append(decision(number)) for number in range(10)))
    events = ["o" if r["event"] == "audit.open" else "c" if r["event"] == "audit.checkpoint" else "." for r in folder.records()]
    assert "".join(events) == "oc...c...c...c.c"


async def test_records_that_wait_together_share_one_sync(folder: Folder):
    disk = Disk()
    async with folder.opened(sync=disk.sync) as log:
        disk.open.clear()
        began = disk.syncs
        first = asyncio.gather(log.append(decision(0, sync=True)))
        await eventually(lambda: len(folder.records()) == 3, what="the first record, whose sync is held up")
        others = asyncio.gather(*(log.append(decision(number, sync=True)) for number in range(1, 51)))
        await asyncio.sleep(0)
        assert not first.done()
        disk.open.set()
        await asyncio.gather(first, others)
        assert disk.syncs - began == 2


async def test_a_record_that_asks_for_no_sync_is_synced_in_a_moment(folder: Folder):
    disk = Disk()
    async with folder.opened(sync=disk.sync) as log:
        began = disk.syncs
        await log.append(decision(0))
        await eventually(lambda: disk.syncs == began + 1, what="the sync")


async def test_a_sync_that_fails_fails_those_that_wait_for_it_and_the_next_one_goes_on(folder: Folder):
    disk = Disk()
    async with folder.opened(sync=disk.sync) as log:
        disk.broken = True
        with pytest.raises(AuditUnavailable, match="write_failed: OSError: Input/output error"):
            await log.append(decision(0, sync=True))
        assert log.failure
        disk.broken = False
        await log.append(decision(1, sync=True))
        assert not log.failure
    assert is_good(folder)


async def test_a_disk_that_hangs_holds_up_no_task_for_longer_than_its_time(folder: Folder):
    disk = Disk()
    async with folder.opened(sync=disk.sync, timeout_s=0.05) as log:
        disk.open.clear()
        with pytest.raises(AuditUnavailable, match="timeout"):
            await log.append(decision(0, sync=True))
        disk.open.set()


async def test_what_waits_is_bounded_and_what_is_lost_is_noted_in_the_log(folder: Folder):
    disk = Disk()
    async with folder.opened(sync=disk.sync, waiting_bytes=2000) as log:
        disk.open.clear()
        held = asyncio.gather(log.append(decision(0, sync=True)))
        await eventually(lambda: len(folder.records()) == 3, what="the record whose sync is held up")
        for number in range(1, 100):
            log.put(decision(number))
        with pytest.raises(AuditUnavailable, match="overloaded"):
            await log.append(decision(100))
        lost = log.lost
        assert 50 < lost < 99
        disk.open.set()
        await held

        async def accepted() -> bool:
            with contextlib.suppress(AuditUnavailable):  # the queue is still full
                await log.append(decision(101))
                return True
            return False

        await eventually(accepted, what="space in the queue")
    notes = [record["count"] for record in folder.records() if record["event"] == "audit.lost"]
    assert (sum(notes), len([record for record in folder.records() if "n" in record])) == (lost, 2 + 99 - lost)
    assert is_good(folder)


async def test_a_task_that_is_cancelled_leaves_the_log_as_it_is(folder: Folder):
    disk = Disk()
    async with folder.opened(sync=disk.sync) as log:
        disk.open.clear()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.02):
                await log.append(decision(0, sync=True))
        disk.open.set()
        await log.append(decision(1, sync=True))
    assert is_good(folder)


async def test_a_closed_log_takes_no_record(folder: Folder):
    async with folder.opened() as log:
        assert await log.close()
        with pytest.raises(AuditUnavailable, match="closed"):
            await log.append(decision(0))
        log.put(decision(1))
        assert log.lost == 1


@pytest.mark.parametrize(
    "fields", [{"x": 1.5}, {"x": b"canary"}, {"hash": "x"}, {"seq": 1}, {"x": "y" * LINE_BYTES}, {"x": ["\u00e9" * 200] * 60}]
)
async def test_a_record_without_the_form_of_the_chain_is_refused_at_once(folder: Folder, fields: dict[str, object]):
    async with folder.opened() as log:
        with pytest.raises(RecordError):
            await log.append(decision(0, **fields))
        await log.append(decision(1))
    assert is_good(folder)


class Defective(AuditFile):
    """A file of a program with a bug."""

    def append(self, drafts: Sequence[Draft]) -> int:
        raise ZeroDivisionError


async def test_a_bug_that_ends_the_thread_refuses_what_waits_and_all_that_comes_and_is_seen(folder: Folder):
    noted: list[str] = []
    log = AuditLog(Defective(folder.log, plane="test", wall=lambda: 0.0), monotonic=time.monotonic, on_end=noted.append)
    log.put(decision(0))
    with pytest.raises(AuditUnavailable, match="write_failed: the thread of the audit ended: ZeroDivisionError"):
        await log.append(decision(1))
    await eventually(lambda: noted == [log.failure], what="the note of the end")
    assert log.failure == "the thread of the audit ended: ZeroDivisionError"
    with pytest.raises(AuditUnavailable, match="closed"):
        await log.append(decision(2))
    assert log.lost == 1
    assert not await log.close()


async def test_records_of_one_turn_of_the_loop_are_written_together(folder: Folder):
    appended: list[int] = []

    class Counted(AuditFile):
        def append(self, drafts: Sequence[Draft]) -> int:
            appended.append(len(drafts))
            return super().append(drafts)

    log = AuditLog(Counted(folder.log, plane="test", wall=lambda: 0.0), monotonic=time.monotonic)
    log.put(decision(0))
    await asyncio.gather(*(log.append(decision(number)) for number in range(1, 20)))
    assert await log.close()
    assert sum(appended) == 20
    assert max(appended) >= 19


class Cutting(LineWriter):
    """Takes no more than this many bytes of what is written at once."""

    most = 10**6

    def write_through(self, text: bytes) -> int:
        return super().write_through(text[: self.most])


@pytest.mark.parametrize("most", [0, 1, 300, 301, 700, 10**6])
def test_a_stream_that_takes_a_part_of_what_was_written_together_goes_on_from_the_last_whole_line(tmp_path: Path, most: int):
    with (tmp_path / "out").open("w+b") as out:
        writer = Cutting(out.fileno())
        stream = AuditStream(writer, plane="test", wall=lambda: 0.0, checkpoint_every=7)
        drafts = [draft_of({"ts": "t", "plane": "test", "event": "e", "id": "", "n": number}) for number in range(20)]
        done = stream.append(drafts[:1])
        writer.most = most
        done += stream.append(drafts[done:5])
        assert bool(stream.failure) == (done < 5)
        writer.most = 10**6
        assert stream.append(drafts[done:]) == 20 - done
        assert not stream.failure
        writer.close()
        out.seek(0)
        lines = [line for line in out.read().splitlines() if line.endswith(b"}")]  # no other is whole
    records = [parse_line(line) for line in lines]
    assert [one["n"] for one in records if "n" in one] == list(range(20))
    assert [one["prev"] for one in records[1:]] == [one["hash"] for one in records[:-1]]


async def test_a_pipe_that_is_full_for_a_while_has_each_record_once_and_in_order():
    """The loop writes while there is room and the thread when there is none: the chain is one."""
    reading, writing = os.pipe()
    fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 4096)
    os.set_blocking(reading, False)
    writer, text = LineWriter(writing), bytearray()
    by_thread: list[int] = []

    class Counted(AuditStream):
        def append(self, drafts: Sequence[Draft]) -> int:
            by_thread.append(len(drafts))
            return super().append(drafts)

    def read() -> None:
        with contextlib.suppress(BlockingIOError):
            while piece := os.read(reading, 65536):
                text.extend(piece)

    log = AuditLog(Counted(writer, plane="test", wall=lambda: 0.0, checkpoint_every=50), monotonic=time.monotonic)
    for number in range(40):  # the reader takes them as they come
        await log.append(decision(number))
        read()
    assert 1 <= sum(by_thread) < 40  # the first, with the record that opens the log, and what came before the thread was done
    waiting = [asyncio.ensure_future(log.append(decision(number))) for number in range(40, 120)]
    await asyncio.sleep(0)
    asyncio.get_running_loop().add_reader(reading, read)
    await asyncio.gather(*waiting)
    assert 1 < sum(by_thread) < 120
    assert await log.close()
    asyncio.get_running_loop().remove_reader(reading)
    read()
    writer.close()
    os.close(writing)
    os.close(reading)
    _, broken = verify([("pipe", io.BytesIO(bytes(text)))], {})
    records = [parse_line(line) for line in bytes(text).splitlines()]
    assert (broken, [one["n"] for one in records if "n" in one]) == (None, list(range(120)))
    assert [one["event"] for one in records].count("audit.checkpoint") == 4


async def test_after_a_rename_the_chain_goes_on_in_a_new_file(folder: Folder):
    async with folder.opened() as log:
        await log.append(decision(0))
        assert not await log.reopen()
        old = folder.log.rename(folder.log.with_name("audit.jsonl.1"))
        await log.append(decision(1))
        assert await log.reopen()
        await log.append(decision(2))
        new, *_ = folder.records()
    old_records = old.read_bytes()
    assert judge(folder, old_records, folder.log.read_bytes())[1] is None
    assert values_of(new, "event", "reason", "seq") == ("audit.open", "rotated", 6)
    assert judge(folder, old_records)[0].ended


async def test_a_log_that_is_being_reopened_can_be_asked_to_once_more(folder: Folder):
    disk = Disk()
    async with folder.opened(sync=disk.sync) as log:
        disk.open.clear()
        folder.log.rename(folder.log.with_name("audit.jsonl.1"))
        first = asyncio.create_task(log.reopen())
        await asyncio.sleep(0)
        second = asyncio.create_task(log.reopen())
        await asyncio.sleep(0)
        disk.open.set()
        assert await first
        await second  # which of the two followed the rename depends on the thread; neither is refused
    assert judge(folder, folder.log.with_name("audit.jsonl.1").read_bytes(), folder.log.read_bytes())[1] is None


async def test_a_new_file_that_is_not_empty_is_refused_and_the_old_one_is_written_on(folder: Folder):
    async with folder.opened() as log:
        old = folder.log.rename(folder.log.with_name("audit.jsonl.1"))
        folder.log.write_bytes(b"{}\n")
        with pytest.raises(AuditUnavailable, match="not empty"):
            await log.reopen()
        await log.append(decision(0))
    chain, found = judge(folder, old.read_bytes())
    assert (found, chain.records, chain.ended) == (None, 5, True)


def test_a_rename_while_descriptors_are_scarce_is_refused_and_the_old_file_is_written_on(folder: Folder):
    """The new file takes the last descriptor, and its folder cannot be synced: any other error than AuditUnavailable ends the thread."""
    file = folder.open_file()
    old = folder.log.rename(folder.log.with_name("audit.jsonl.1"))
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest_free = os.dup(0)
    os.close(lowest_free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free + 1, limits[1]))
    try:
        with pytest.raises(AuditUnavailable, match="Too many open files"):
            file.reopen()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert file.append([draft_of({"ts": "t", "plane": "test", "event": "request.decided", "id": "", "n": 1})]) == 1
    assert b'"n":1' in old.read_bytes()
    assert file.reopen()
    assert file.checkpoint("close")
    file.close()
    assert judge(folder, old.read_bytes(), folder.log.read_bytes())[1] is None


@pytest.mark.parametrize("there", [False, True], ids=["no file", "an empty file of others"])
def test_a_rotation_that_fails_on_a_full_disk_leaves_what_was_there_and_a_chain_that_goes_on(folder: Folder, there: bool):
    full = True

    def sync(fd: int) -> None:
        if full and Path(f"/proc/self/fd/{fd}").readlink() == folder.log and os.fstat(fd).st_size and old.exists():
            raise OSError(errno.ENOSPC, "No space left on device")

    old = folder.log.with_name("audit.jsonl.1")
    file = folder.open_file(sync=sync)
    folder.log.rename(old)
    if there:
        folder.log.touch()
    record = draft_of({"ts": "t", "plane": "test", "event": "request.decided", "id": "", "n": 1})
    for _ in range(2):
        with pytest.raises(AuditUnavailable, match="No space left"):
            file.reopen()
        assert [path.stat().st_size for path in (folder.log,) if path.exists()] == [0] * there
        assert file.append([record]) == 1
        assert judge(folder, old.read_bytes())[1] is None  # behind a checkpoint of a rotation that did not take place
    full = False
    assert file.reopen()
    assert file.append([record]) == 1
    assert file.checkpoint("close")
    file.close()
    chain, found = judge(folder, old.read_bytes(), folder.log.read_bytes())
    assert (found, chain.interrupted, chain.closed) == (None, 0, True)


def test_a_second_writer_is_refused_also_after_a_rename(folder: Folder):
    first = folder.open_file()
    for name in ("audit.jsonl", "audit.jsonl.1"):
        folder.log.replace(folder.log.with_name(name))
        with pytest.raises(AuditUnavailable) as refused:
            folder.open_file()
        assert refused.value.reason == "locked"
    first.close()
    folder.open_file().close()


def test_a_second_writer_is_refused_also_where_the_lock_file_was_removed(folder: Folder):
    first = folder.open_file()
    folder.log.with_name("audit.jsonl.lock").unlink()
    with pytest.raises(AuditUnavailable) as refused:
        folder.open_file()
    assert refused.value.reason == "locked"
    first.close()
    folder.open_file().close()


@pytest.mark.parametrize("torn", [b'{"v":1,"se', b"\x00" * 200_000, b"x"])
def test_a_torn_last_line_is_set_aside_and_noted(folder: Folder, torn: bytes):
    whole = b"".join(folder.write(3))
    folder.log.write_bytes(whole + torn)
    folder.write(1)
    opened = folder.records()[len(whole.splitlines())]
    assert opened["torn"] == {"bytes": len(torn), "sha256": hashlib.sha256(torn).hexdigest(), "file": "audit.jsonl.torn"}
    assert folder.log.with_name("audit.jsonl.torn").read_bytes() == torn
    assert is_good(folder)


@pytest.mark.parametrize("last", [b"{}\n", b"\n", b"\x00\n", b"x" * LINE_BYTES + b"\n"])
def test_a_log_whose_last_record_does_not_verify_is_not_written_on(folder: Folder, last: bytes):
    whole = b"".join(folder.write(1)) + last
    folder.log.write_bytes(whole)
    with pytest.raises(AuditUnavailable) as refused:
        folder.open_file()
    assert refused.value.reason == "damaged"
    assert folder.log.read_bytes() == whole


def a_missing_folder(path: Path) -> Path:
    return path / "missing" / "audit.jsonl"


def a_folder_that_cannot_be_written(_: Path) -> Path:
    return Path("/proc/self/audit.jsonl")


def a_folder_in_its_place(path: Path) -> Path:
    (path / "audit.jsonl").mkdir()
    return path / "audit.jsonl"


def a_symbolic_link(path: Path) -> Path:
    (path / "audit.jsonl").symlink_to(path / "elsewhere")
    return path / "audit.jsonl"


def a_named_pipe(path: Path) -> Path:
    os.mkfifo(path / "audit.jsonl")
    return path / "audit.jsonl"


PLACES = [a_missing_folder, a_folder_that_cannot_be_written, a_folder_in_its_place, a_symbolic_link, a_named_pipe]


@pytest.mark.parametrize("place", PLACES)
def test_a_place_that_cannot_hold_a_log_is_refused(tmp_path: Path, place: Callable[[Path], Path]):
    with pytest.raises(AuditUnavailable) as refused:
        AuditFile(place(tmp_path), plane="test", wall=lambda: 0.0)
    assert refused.value.reason == "write_failed"


def test_a_key_must_be_an_ed25519_private_key(folder: Folder):
    for content in (b"", folder.public.read_bytes()):
        folder.private.write_bytes(content)
        with pytest.raises(ValueError, match="PEM private key"):
            load_checkpoint_key(folder.private)


FULL_DISK = """
import asyncio, resource, sys
from pathlib import Path
from tests.telemetry.audit_rig import Folder, decision
from robin.telemetry.audit_file import AuditUnavailable

async def main():
    folder = Folder(Path(sys.argv[1]))
    async with folder.opened(every=4) as log:
        resource.setrlimit(resource.RLIMIT_FSIZE, (9_000, resource.RLIM_INFINITY))
        written = refused = 0
        for number in range(40):
            try:
                await log.append(decision(number, sync=True))
                written += 1
            except AuditUnavailable as error:
                assert (error.code, error.reason) == ("audit_unavailable", "write_failed"), error
                refused += 1
        assert log.failure and written and refused and written + refused == 40
        log.put(decision(98))
        while not log.lost:
            await asyncio.sleep(0.01)
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        await log.append(decision(99, sync=True))
        assert not log.failure and not log.lost
    print(written)

asyncio.run(main())
"""

ENDLESS = """
import asyncio, sys
from pathlib import Path
from tests.telemetry.audit_rig import Folder, decision

async def main():
    async with Folder(Path(sys.argv[1])).opened(every=7) as log:
        for number in range(10**9):
            await log.append(decision(number, sync=number % 3 == 0))
            print(number, flush=True)

asyncio.run(main())
"""


def start(script: str, folder: Folder) -> subprocess.Popen[str]:
    """A process of its own; both folders of the tests' imports are its path."""
    paths = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.Popen([sys.executable, "-c", script, str(folder.log.parent)], stdout=subprocess.PIPE, text=True, env=paths)


def test_a_full_disk_refuses_records_and_leaves_a_chain_that_goes_on_when_there_is_space(folder: Folder):
    process = start(FULL_DISK, folder)
    told, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    records = folder.records()
    assert [record["n"] for record in records if "n" in record] == [*range(int(told)), 99]
    assert [record["count"] for record in records if record["event"] == "audit.lost"] == [1]
    assert is_good(folder)


def test_a_killed_process_loses_nothing_that_append_returned_for_and_the_next_goes_on(folder: Folder):
    process = start(ENDLESS, folder)
    assert process.stdout is not None
    told = [process.stdout.readline() for _ in range(50)]
    process.send_signal(signal.SIGKILL)
    told += process.stdout.readlines()
    process.wait(10)
    process.stdout.close()
    folder.write(1)
    records = folder.records()
    numbers = [record["n"] for record in records if record["plane"] == "test" and "n" in record][:-1]
    assert numbers == list(range(len(numbers)))
    assert len(numbers) >= int(told[-1]) + 1
    assert is_good(folder)

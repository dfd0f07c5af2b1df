"""The file identity on a real file: what each kind of writer does to it, and what requests get (M1 to M6)."""

import asyncio
import dataclasses
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.descriptors import no_descriptor_left
from tests.identity.room import Room

from robin.identity.sources.file import FileSource
from robin.identity.watch import FileWatch
from robin.model.faults import Fault
from robin.model.identity import IdentityState, IdentityToken
from robin.model.secret import Secret
from robin.testing.manual_clock import ManualClock
from robin.testing.tokens import make_token
from robin.testing.waiting import eventually
from robin.transport.clock import SystemClock
from robin.wire.jose import TokenRules, fingerprint, same_token


class Stage:
    """A token file, its watch, and a clock that starts at the real time (a file's ctime is not ours to set)."""

    def __init__(
        self, folder: Path, *, grace_s: float = 10, rules: TokenRules | None = None, turn: Callable[[], float] | None = None
    ) -> None:
        self.path = folder / "token"
        self.folder = folder
        self.room = Room(clock=ManualClock(wall=time.time()), source="file")
        self.room.turn = turn
        self.clock = self.room.clock
        self.watch = FileWatch(
            FileSource(str(self.path), self.room.metrics), rules or TokenRules(), grace_s=grace_s, room=self.room.surroundings()
        )

    def token(self, *, lifetime_s: float = 600, **more: object) -> bytes:
        return make_token(expires_at=self.clock.wall() + lifetime_s, **more)  # type: ignore[arg-type]

    def write(self, text: bytes) -> bytes:
        """Replace the file as a careful writer does; its times are then `now` of the real clock, so ours is not behind."""
        fresh = self.folder / "fresh"
        fresh.write_bytes(text)
        fresh.chmod(0o600)
        os.replace(fresh, self.path)
        return text

    def settle(self) -> None:
        """Let the file grow older than the young-file rule asks."""
        self.clock.advance(2)

    async def get(self) -> IdentityToken | Fault:
        """What a request gets."""
        token = self.watch.ready()
        if token is not None:
            return token
        try:
            return await self.watch.obtain()
        except Fault as fault:
            return fault

    async def served(self, text: bytes) -> bool:
        found = await self.get()
        return isinstance(found, IdentityToken) and same_token(found, Secret(text))

    async def code(self) -> str:
        found = await self.get()
        assert isinstance(found, Fault), "a token was served"
        return found.code


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    return Stage(tmp_path)


# rotations


async def test_a_renamed_file_is_used_by_the_next_request(stage: Stage) -> None:
    stage.write(stage.token())
    stage.settle()
    await stage.watch.poll()
    second = stage.write(stage.token())
    assert await stage.served(second)


async def test_a_file_rewritten_in_place_is_used_by_the_next_request(stage: Stage) -> None:
    stage.write(stage.token())
    stage.settle()
    await stage.watch.poll()
    second = stage.token()
    stage.path.write_bytes(second)
    assert await stage.served(second)


async def test_a_swapped_data_directory_is_used_by_the_next_request(tmp_path: Path) -> None:
    stage = Stage(tmp_path)
    for generation in ("one", "two"):
        (tmp_path / generation).mkdir()
    first, second = stage.token(), stage.token()
    (tmp_path / "one" / "token").write_bytes(first)
    (tmp_path / "two" / "token").write_bytes(second)
    (tmp_path / "..data").symlink_to("one")
    stage.path.symlink_to("..data/token")
    stage.settle()
    assert await stage.served(first)
    (tmp_path / "..data_tmp").symlink_to("two")
    os.replace(tmp_path / "..data_tmp", tmp_path / "..data")
    assert await stage.served(second)


async def test_a_file_that_flaps_is_lost_at_most_once_a_poll(tmp_path: Path) -> None:
    stage = Stage(tmp_path, rules=TokenRules(audience="right"))
    good, wrong = stage.token(audience="right"), stage.token(audience="wrong")
    stage.write(good)
    await stage.watch.poll()
    for _ in range(20):
        stage.write(wrong)
        assert await stage.code() == "audience_mismatch"
        stage.write(good)
        assert await stage.served(good)
    stage.write(wrong)
    assert await stage.code() == "audience_mismatch"
    assert stage.room.log.count("identity_lost") == 0
    await stage.watch.poll()
    assert (stage.room.log.count("identity_lost"), stage.room.log.count("identity_ready")) == (1, 0)


async def test_the_second_of_two_writes_within_a_clock_tick_is_seen(stage: Stage) -> None:
    first = stage.write(stage.token())
    assert await stage.served(first)
    before = stage.path.stat()
    second = stage.token()
    assert len(second) == len(first)
    stage.path.write_bytes(second)
    os.utime(stage.path, ns=(before.st_atime_ns, before.st_mtime_ns))
    stage.watch._key = None if stage.watch._key is None else (*stage.watch._key[:4], stage.path.stat().st_ctime_ns)  # as one tick has it
    assert await stage.served(second)


async def test_a_young_file_is_read_each_time_and_an_old_one_not_at_all(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    text = stage.write(stage.token())
    stats, opens = count_calls(monkeypatch)
    for number in range(1, 4):
        assert await stage.served(text)
        assert opens[0] == number
    stage.settle()
    assert await stage.served(text)
    stats[0] = opens[0] = 0
    for _ in range(1000):
        assert stage.watch.ready() is not None
    assert (stats[0], opens[0]) == (1000, 0)
    assert stage.room.metrics.cache_hit == 1000


async def test_requests_of_one_turn_of_the_loop_share_a_stat_and_the_next_turn_has_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    turn = [1.0]
    stage = Stage(tmp_path, turn=lambda: turn[0])
    first = stage.write(stage.token())
    stage.settle()
    assert await stage.served(first)
    stats, opens = count_calls(monkeypatch)
    assert all(stage.watch.ready() for _ in range(10))
    assert (stats[0], opens[0]) == (1, 0)
    second = stage.write(stage.token())
    assert await stage.served(first)
    turn[0] += 0.001
    assert await stage.served(second)
    stage.settle()
    assert await stage.served(second)
    stage.watch.wake()  # SIGHUP: not what the turn has seen, but the file
    opens[0] = 0
    assert await stage.served(second)
    assert opens[0] == 1


async def test_an_expired_token_is_not_served_in_the_turn_that_saw_its_file(tmp_path: Path) -> None:
    stage = Stage(tmp_path, turn=lambda: 1.0)
    stage.write(stage.token(lifetime_s=60))
    stage.settle()
    await stage.get()
    assert stage.watch.ready() is not None
    stage.clock.advance(60)
    assert stage.watch.ready() is None


def count_calls(monkeypatch: pytest.MonkeyPatch) -> tuple[list[int], list[int]]:
    stats, opens = [0], [0]
    stat, open_file = os.stat, os.open

    def counting_stat(*args: object, **more: object) -> os.stat_result:
        stats[0] += 1
        return stat(*args, **more)  # type: ignore[arg-type]

    def counting_open(*args: object, **more: object) -> int:
        opens[0] += 1
        return open_file(*args, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "stat", counting_stat)
    monkeypatch.setattr(os, "open", counting_open)
    return stats, opens


async def test_a_file_dated_in_the_future_is_read_each_time(stage: Stage) -> None:
    text = stage.write(stage.token(lifetime_s=9000))
    stage.settle()
    os.utime(stage.path, (stage.clock.wall() + 3600,) * 2)
    assert await stage.served(text)
    assert stage.watch.ready() is None
    assert await stage.served(text)


async def test_an_old_file_is_read_again_after_a_minute(stage: Stage) -> None:
    text = stage.write(stage.token())
    stage.settle()
    assert await stage.served(text)
    stage.clock.advance(59.9)
    assert stage.watch.ready() is not None
    stage.clock.advance(0.2)
    assert stage.watch.ready() is None
    assert await stage.served(text)
    assert stage.watch.ready() is not None


async def test_the_same_bytes_are_the_same_token_after_each_read(stage: Stage) -> None:
    stage.write(stage.token() + b"\n")
    first = await stage.get()
    assert await stage.get() is first
    stage.write(stage.path.read_bytes().rstrip() + b"\r\n")
    assert await stage.get() is first
    assert stage.room.metrics.refreshes == {("renewed", "ok"): 1, ("unchanged", "ok"): 2}


# failures and grace


async def test_a_deleted_file_leaves_the_last_good_token_for_the_grace(stage: Stage) -> None:
    text = stage.write(stage.token())
    assert await stage.served(text)
    stage.path.unlink()
    assert await stage.served(text)
    assert stage.watch.status().state is IdentityState.STALE
    stage.clock.advance(9.9)
    assert await stage.served(text)
    stage.clock.advance(0.1)
    assert await stage.code() == "identity_unavailable"
    assert stage.watch.status().reasons == ("identity_unavailable",)


async def test_without_grace_a_deleted_file_is_refused_at_once(tmp_path: Path) -> None:
    stage = Stage(tmp_path, grace_s=0)
    text = stage.write(stage.token())
    assert await stage.served(text)
    stage.path.unlink()
    assert await stage.code() == "identity_unavailable"


async def test_the_grace_counts_from_the_first_failure_and_starts_anew_after_a_good_read(stage: Stage) -> None:
    text = stage.write(stage.token())
    assert await stage.served(text)
    for failing in (b"", b"garbage", text[:50]):
        stage.write(failing)
        assert await stage.served(text)
        stage.clock.advance(3)
    stage.clock.advance(1)
    assert await stage.code() == "identity_malformed"
    second = stage.write(stage.token())
    assert await stage.served(second)
    stage.path.unlink()
    assert await stage.served(second)


async def test_our_own_lack_of_descriptors_is_no_verdict_on_the_token(tmp_path: Path) -> None:
    stage = Stage(tmp_path, grace_s=0)
    text = stage.write(stage.token())
    assert await stage.served(text)
    stage.write(stage.token())
    with no_descriptor_left():
        stage.clock.advance(100)
        await stage.watch.poll()
        assert await stage.served(text)
        assert stage.watch.status().state is IdentityState.FRESH
        assert stage.room.metrics.refreshes[("error", "exhausted")] == 2
        stage.clock.advance(500)
        assert await stage.code() == "identity_unavailable", "the token's own time counts whatever we lack"
    assert not await stage.served(text)


async def test_a_lack_of_descriptors_neither_ends_a_grace_nor_begins_it_anew(stage: Stage) -> None:
    text = stage.write(stage.token())
    assert await stage.served(text)
    stage.write(b"garbage")
    assert await stage.served(text)
    stage.clock.advance(9)
    with no_descriptor_left():
        assert await stage.served(text)
        stage.clock.advance(1)
        assert await stage.code() == "identity_unavailable"


async def test_a_deleted_file_is_missing_even_where_no_descriptor_is_left_to_open_it(stage: Stage) -> None:
    text = stage.write(stage.token())
    assert await stage.served(text)
    stage.path.unlink()
    with no_descriptor_left():
        assert await stage.served(text)
        stage.clock.advance(10)
        assert await stage.code() == "identity_unavailable"
    assert stage.room.metrics.refreshes[("error", "missing")] == 2


async def test_without_a_token_a_lack_of_descriptors_names_the_limit_to_raise(stage: Stage) -> None:
    stage.write(stage.token())
    with no_descriptor_left():
        found = await stage.get()
    assert isinstance(found, Fault)
    assert (found.code, found.detail.partition(":")[0]) == ("identity_unavailable", "exhausted")
    assert "ulimit -n" in found.detail


async def test_the_grace_never_outlives_the_token(stage: Stage) -> None:
    text = stage.write(stage.token(lifetime_s=60))
    assert await stage.served(text)
    stage.clock.advance(50)
    assert await stage.served(text)
    stage.path.unlink()
    stage.clock.advance(4.9)
    assert await stage.served(text)
    stage.clock.advance(0.1)
    assert isinstance(await stage.get(), Fault)


@pytest.mark.parametrize(
    ("lifetime_s", "more", "code"),
    [
        (600, {"audience": "other"}, "audience_mismatch"),
        (-1, {}, "identity_expired"),
        (600, {"claims": {"nbf": time.time() + 3600}}, "identity_not_yet_valid"),
    ],
)
async def test_what_the_file_says_has_no_grace(tmp_path: Path, lifetime_s: float, more: dict[str, object], code: str) -> None:
    stage = Stage(tmp_path, rules=TokenRules(audience="broker.example"))
    assert await stage.served(stage.write(stage.token()))
    stage.write(stage.token(lifetime_s=lifetime_s, **more))
    assert await stage.code() == code
    stage.path.unlink()
    assert await stage.code() == "identity_unavailable"


@pytest.mark.parametrize(
    ("spoil", "code", "reason"),
    [
        (lambda token: b"\xef\xbb\xbf" + token, "identity_malformed", "bom"),
        (lambda token: token + b"a" * (16385 - len(token)), "identity_malformed", "too_large"),
        (lambda token: token + b" " * 40_000, "identity_malformed", "too_large"),
        (lambda token: token[:-6], "identity_malformed", "bad_signature_length"),
        (lambda token: token[:30] + b"\n" + token[30:], "identity_malformed", "not_b64token"),
        (lambda token: b" \n", "identity_unavailable", "empty"),
        (lambda token: b"", "identity_unavailable", "empty"),
    ],
)
async def test_a_spoiled_file_is_refused_by_code_and_reason(stage: Stage, spoil: Callable[[bytes], bytes], code: str, reason: str) -> None:
    stage.write(spoil(stage.token()))
    found = await stage.get()
    assert isinstance(found, Fault)
    assert found.code == code
    assert found.detail.startswith(reason + ": ")
    assert found.retry_after_s is not None
    stage.write(stage.token() + b"\r\n")
    assert isinstance(await stage.get(), IdentityToken)


async def test_a_token_ends_in_the_file_when_its_time_has_come(stage: Stage) -> None:
    text = stage.write(stage.token(lifetime_s=600))
    stage.settle()
    assert await stage.served(text)
    stage.clock.advance(592.9)
    assert await stage.served(text)
    stage.clock.advance(0.2)
    assert stage.watch.status().reasons == ("identity_expired",)
    assert await stage.code() == "identity_expired"
    assert stage.watch.status().state is IdentityState.EXPIRED


async def test_a_token_past_its_use_stays_so_however_often_the_file_is_read_again(stage: Stage) -> None:
    """Its lifetime counts from when it was first seen: judged as new it would have a shorter one, a smaller margin, and come back."""
    stage.write(stage.token(lifetime_s=10))
    stage.settle()
    assert isinstance(await stage.get(), IdentityToken)
    stage.clock.advance(7.3)  # 0.7 s left, and a tenth of the 8 s that it had is 0.8 s
    assert [await stage.code() for _ in range(3)] == ["identity_expired"] * 3
    await stage.watch.poll()
    assert not stage.watch.status().usable


async def test_a_future_token_is_used_when_its_time_has_come(stage: Stage) -> None:
    text = stage.write(stage.token(claims={"nbf": stage.clock.wall() + 100}))
    assert await stage.code() == "identity_not_yet_valid"
    stage.clock.advance(71)
    assert await stage.served(text)


async def test_an_absent_file_that_appears_is_served(stage: Stage) -> None:
    await stage.watch.poll()
    assert await stage.code() == "identity_unavailable"
    assert stage.watch.status().state is IdentityState.MISSING
    text = stage.write(stage.token())
    await stage.watch.poll()
    assert stage.watch.status().usable
    assert stage.room.changes == 1
    assert await stage.served(text)


async def test_a_token_that_grows_byte_by_byte_is_served_only_whole(stage: Stage) -> None:
    old = stage.write(stage.token())
    assert await stage.served(old)
    new = stage.token()
    stage.path.write_bytes(b"")
    with stage.path.open("ab", buffering=0) as writer:
        for byte in new:
            assert await stage.served(old)
            writer.write(bytes([byte]))
    assert await stage.served(new)


async def test_an_opaque_file_is_served_as_it_is(tmp_path: Path) -> None:
    stage = Stage(tmp_path, rules=TokenRules(decoded=False))
    assert await stage.served(stage.write(b"s.opaque"))
    stage.clock.advance(10**6)
    assert await stage.served(b"s.opaque")
    status = stage.watch.status()
    assert (status.expires_in_s, status.state) == (None, IdentityState.FRESH)


async def test_a_token_that_others_may_read_is_warned_of_once(stage: Stage) -> None:
    for _ in range(3):
        stage.write(stage.token())
        stage.path.chmod(0o644)
        await stage.get()
    assert stage.room.log.count("token_file_open") == 1


async def test_a_wrong_audience_is_an_error_line_once_per_token(tmp_path: Path) -> None:
    stage = Stage(tmp_path, rules=TokenRules(audience="broker.example"))
    stage.write(stage.token(audience="other"))
    for _ in range(50):
        await stage.get()
    assert stage.room.log.count("identity_misconfigured") == 1
    stage.write(stage.token(audience="other"))
    await stage.get()
    assert stage.room.log.count("identity_misconfigured") == 2


async def test_every_read_that_meets_a_writer_for_ever_starts_the_grace(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    text = stage.write(stage.token())
    assert await stage.served(text)
    fstat = os.fstat
    tick = iter(range(10**9))

    def never_twice_the_same(descriptor: int) -> os.stat_result:
        found = fstat(descriptor)
        os.utime(stage.path, ns=(0, next(tick)))
        return found

    monkeypatch.setattr(os, "fstat", never_twice_the_same)
    requests = await asyncio.gather(*(stage.watch.obtain() for _ in range(20)))
    assert all(same_token(token, Secret(text)) for token in requests)
    assert stage.room.metrics.torn_reads == 60
    stage.clock.advance(10)
    outcomes = await asyncio.gather(*(stage.watch.obtain() for _ in range(5)), return_exceptions=True)
    assert [outcome.code for outcome in outcomes if isinstance(outcome, Fault)] == ["identity_unavailable"] * 5


async def test_a_read_that_fails_late_does_not_undo_one_that_succeeded(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    stage.write(stage.token())
    fstat = os.fstat
    torn = [True]

    def change_under_the_first_reader(descriptor: int) -> os.stat_result:
        found = fstat(descriptor)
        if torn[0]:
            os.utime(stage.path)
        return found

    monkeypatch.setattr(os, "fstat", change_under_the_first_reader)
    slow = asyncio.ensure_future(stage.watch.obtain())
    await eventually(lambda: stage.room.metrics.torn_reads == 2, every_s=0.001)
    torn[0] = False
    fast = await stage.watch.obtain()
    torn[0] = True
    assert await slow is fast
    assert stage.watch.status().state is IdentityState.FRESH


# forced reads, life


async def test_answers_401_force_one_read_in_thirty_seconds(stage: Stage) -> None:
    stage.write(stage.token())
    stage.settle()
    await stage.get()
    token = stage.watch.ready()
    assert token is not None
    reads = 0
    for _ in range(1000):
        stage.watch.rejected(token)
        if stage.watch.ready() is None:
            reads += 1
            await stage.watch.obtain()
        stage.clock.advance(0.01)
    assert reads == 1
    stage.clock.advance(20.1)
    stage.watch.rejected(token)
    assert stage.watch.ready() is None


async def test_a_401_for_a_token_that_was_replaced_forces_nothing(stage: Stage) -> None:
    stage.write(stage.token())
    old = await stage.get()
    assert isinstance(old, IdentityToken)
    stage.write(stage.token())
    stage.settle()
    await stage.get()
    stage.watch.rejected(old)
    assert stage.watch.ready() is not None


async def test_a_sighup_reads_the_file_again(stage: Stage) -> None:
    stage.write(stage.token())
    stage.settle()
    await stage.watch.poll()
    assert stage.watch.ready() is not None
    stage.watch.wake()
    assert stage.watch.ready() is None
    await stage.watch.poll()
    assert stage.watch.ready() is not None


async def test_a_status_never_touches_the_file(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    stage.write(stage.token())
    await stage.watch.poll()
    stats, opens = count_calls(monkeypatch)
    for _ in range(10_000):
        assert stage.watch.status().usable
    assert (stats[0], opens[0]) == (0, 0)


async def test_the_poll_keeps_readiness_true_without_traffic(tmp_path: Path) -> None:
    stage = Stage(tmp_path)
    await stage.watch.start()
    try:
        assert stage.room.changes == 0
        stage.write(stage.token())
        began = time.monotonic()
        await eventually(lambda: stage.room.changes == 1, what="readiness to follow the file")
        assert time.monotonic() - began < 1.5
        assert stage.room.metrics.ready
    finally:
        await stage.watch.close()
    assert len(stage.room.tasks) == 0
    assert stage.room.crashes == []


async def test_a_poll_that_crashes_is_told_and_goes_on(stage: Stage) -> None:
    crash = [True]
    read = stage.watch._source.read

    async def crash_once() -> object:
        if crash.pop() if crash else False:
            raise RuntimeError("eyJ.a.b")
        return await read()

    class Crashing(FileSource):
        read = staticmethod(crash_once)  # type: ignore[assignment]

    stage.watch._source = Crashing(str(stage.path), stage.room.metrics)
    stage.watch._poll = stage.room.tasks.start(stage.watch._poll_for_ever(), "poll")
    await eventually(lambda: stage.room.log.codes("identity_crashed") == ["RuntimeError"])
    stage.write(stage.token())
    await eventually(lambda: stage.watch.status().usable, what="the poll after the crash")
    assert "eyJ" not in repr(stage.room.log.lines)
    await stage.watch.close()


@pytest.mark.parametrize("reads", [10_000, pytest.param(100_000, marks=pytest.mark.slow)])
async def test_reads_without_number_leave_nothing_behind(stage: Stage, reads: int) -> None:
    text = stage.write(stage.token())
    for _ in range(1000):
        await stage.watch.obtain()
    before = (len(os.listdir("/proc/self/fd")), resident_kib())
    for _ in range(reads):
        await stage.watch.obtain()
    assert len(os.listdir("/proc/self/fd")) == before[0]
    assert resident_kib() - before[1] < 1024
    assert await stage.served(text)


@pytest.mark.parametrize("seconds", [3, pytest.param(60, marks=pytest.mark.slow)])
async def test_careless_writers_cost_no_request_within_the_grace_and_no_half_token_leaves(tmp_path: Path, seconds: float) -> None:
    room = Room(source="file")
    path = tmp_path / "token"
    tokens = [make_token(expires_at=time.time() + 3600) for _ in range(16)]
    whole = {fingerprint(Secret(token)) for token in tokens}
    path.write_bytes(tokens[0])
    surroundings = dataclasses.replace(room.surroundings(), clock=SystemClock())
    watch = FileWatch(FileSource(str(path), room.metrics), TokenRules(), grace_s=10, room=surroundings)
    stop = threading.Event()
    writer = threading.Thread(target=write_carelessly, args=(path, tokens, stop))
    await watch.start()
    writer.start()
    try:
        until, requests = time.monotonic() + seconds, 0
        while time.monotonic() < until:
            token = watch.ready() or await watch.obtain()
            assert fingerprint(token.value) in whole, "something else than a whole token was served"
            requests += 1
            if requests % 50 == 0:
                await asyncio.sleep(0)
    finally:
        stop.set()
        writer.join()
        await watch.close()
    assert requests > 100 * seconds
    assert room.metrics.refreshes[("renewed", "ok")] > 5
    assert room.metrics.refreshes[("error", "missing")] > 0


def write_carelessly(path: Path, tokens: list[bytes], stop: threading.Event) -> None:
    """Truncate, write piece by piece, take the permissions away, delete and create anew, with pauses of a few milliseconds."""
    number = 0
    while not stop.is_set():
        token = tokens[number % len(tokens)]
        number += 1
        with path.open("wb", buffering=0) as file:
            for at in range(0, len(token), 11):
                file.write(token[at : at + 11])
                if at % 110 == 0:
                    stop.wait(0.001)
        stop.wait(0.01)
        if number % 3 == 0:
            path.chmod(0)
            stop.wait(0.005)
            path.chmod(0o600)
        if number % 4 == 0:
            path.unlink()
            stop.wait(0.02)


def resident_kib() -> int:
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGESIZE") // 1024

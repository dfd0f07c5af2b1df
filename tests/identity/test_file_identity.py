"""The file identity on a real file: what each kind of writer does to it, and what requests get (M1 to M6)."""

import asyncio
import dataclasses
import gc
import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.descriptors import no_descriptor_left
from tests.identity.parts import Parts

from robin.identity.file_identity import FileIdentity
from robin.identity.sources.file import FileSource
from robin.model.faults import Fault
from robin.model.identity import IdentityState, IdentityToken
from robin.model.secret import Secret
from robin.testing.manual_clock import ManualClock
from robin.testing.tokens import make_token
from robin.testing.waiting import eventually
from robin.transport.clock import SystemClock
from robin.wire.jwt_inspection import TokenRules, fingerprint, same_token


class Stage:
    """A token file, its identity, and a clock that starts at the real time (a file's ctime cannot be set)."""

    def __init__(self, folder: Path, *, grace_s: float = 10, rules: TokenRules | None = None, turn: Callable[[], float] | None = None):
        self.path = folder / "token"
        self.folder = folder
        self.clock = ManualClock(wall=time.time())
        self.parts = Parts(clock=self.clock, source="file")
        self.identity = FileIdentity(
            FileSource(str(self.path), self.parts.metrics),
            rules or TokenRules(),
            grace_s=grace_s,
            dependencies=dataclasses.replace(self.parts.dependencies, turn=turn),
            metrics=self.parts.metrics,
        )

    def text(self, *, lifetime_s: float = 600, **more: object) -> bytes:
        return make_token(expires_at=self.clock.wall() + lifetime_s, **more)  # type: ignore[arg-type]

    def write(self, text: bytes | None = None, **more: object) -> bytes:
        """Replace the file as a careful writer does."""
        text = self.text(**more) if text is None else text  # type: ignore[arg-type]
        fresh = self.folder / "fresh"
        fresh.write_bytes(text)
        fresh.chmod(0o600)
        os.replace(fresh, self.path)
        return text

    def settle(self) -> None:
        """Let the file grow older than a second, so that its bytes may serve from the cache."""
        self.clock.advance(2)

    async def get(self) -> IdentityToken | Fault:
        """Return what a request gets."""
        try:
            return self.identity.ready() or await self.identity.obtain()
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


def count_calls(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """Count the calls of `os.stat` and `os.open` from now on."""
    counts = {"stat": 0, "open": 0}

    def counting(name: str) -> None:
        original = getattr(os, name)

        def call(*args: object, **more: object) -> object:
            counts[name] += 1
            return original(*args, **more)

        monkeypatch.setattr(os, name, call)

    counting("stat")
    counting("open")
    return counts


# rotations


def rename(stage: Stage) -> bytes:
    return stage.write()


def rewrite_in_place(stage: Stage) -> bytes:
    text = stage.text()
    stage.path.write_bytes(text)
    return text


def swap_data_directory(stage: Stage) -> bytes:
    """As the kubelet does: `token` leads through `..data`, which is replaced by a rename."""
    text, target = stage.text(), stage.folder / f"data{time.monotonic_ns()}"
    target.mkdir()
    (target / "token").write_bytes(text)
    (stage.folder / "..data_tmp").symlink_to(target.name)
    os.replace(stage.folder / "..data_tmp", stage.folder / "..data")
    if not stage.path.is_symlink():
        stage.path.symlink_to("..data/token")
    return text


@pytest.mark.parametrize("rotate", [rename, rewrite_in_place, swap_data_directory])
async def test_a_rotated_token_is_used_by_the_next_request(stage: Stage, rotate: Callable[[Stage], bytes]) -> None:
    first = rotate(stage)
    stage.settle()
    assert await stage.served(first)
    assert stage.identity.ready() is not None
    assert await stage.served(rotate(stage))


async def test_a_file_that_flaps_is_lost_at_most_once_a_poll(tmp_path: Path) -> None:
    stage = Stage(tmp_path, rules=TokenRules(audience="right"))
    good, wrong = stage.text(audience="right"), stage.text(audience="wrong")
    stage.write(good)
    await stage.identity.poll()
    for _ in range(20):
        stage.write(wrong)
        assert await stage.code() == "audience_mismatch"
        stage.write(good)
        assert await stage.served(good)
    stage.write(wrong)
    assert await stage.code() == "audience_mismatch"
    assert stage.parts.log.count("identity_lost") == 0
    await stage.identity.poll()
    assert (stage.parts.log.count("identity_lost"), stage.parts.log.count("identity_ready")) == (1, 0)


async def test_a_young_file_is_read_each_time_and_an_old_one_not_at_all(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """A young one may be written a second time within one tick of the clock of the file system."""
    text = stage.write()
    calls = count_calls(monkeypatch)
    for number in range(1, 4):
        assert await stage.served(text)
        assert calls["open"] == number
    stage.settle()
    assert await stage.served(text)
    calls.update(stat=0, open=0)
    for _ in range(1000):
        assert stage.identity.ready() is not None
        assert stage.identity.status().usable  # from memory
    assert calls == {"stat": 1000, "open": 0}
    assert stage.parts.metrics.cache_hit == 1000


async def test_requests_of_one_turn_share_a_stat_and_the_next_turn_has_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    turn = [1.0]
    stage = Stage(tmp_path, turn=lambda: turn[0])
    first = stage.write()
    stage.settle()
    assert await stage.served(first)
    calls = count_calls(monkeypatch)
    assert all(stage.identity.ready() for _ in range(10))
    assert calls == {"stat": 1, "open": 0}
    second = stage.write()
    assert await stage.served(first)
    turn[0] += 0.001
    assert await stage.served(second)
    stage.settle()
    assert await stage.served(second)
    stage.identity.wake()  # SIGHUP: not what the turn has seen, but the file
    calls["open"] = 0
    assert await stage.served(second)
    assert calls["open"] == 1
    stage.clock.advance(600)
    assert stage.identity.ready() is None, "an expired token is served in the turn that saw its file"


@pytest.mark.parametrize(("dated_s", "age_s", "cached"), [(3600, 0, False), (0, 59.9, True), (0, 60.1, False)])
async def test_a_file_of_the_future_is_never_cached_and_any_other_for_a_minute(
    stage: Stage, dated_s: float, age_s: float, cached: bool
) -> None:
    text = stage.write(lifetime_s=9000)
    stage.settle()
    if dated_s:
        os.utime(stage.path, (stage.clock.wall() + dated_s,) * 2)
    assert await stage.served(text)
    stage.clock.advance(age_s)
    assert (stage.identity.ready() is not None) is cached
    assert await stage.served(text)


async def test_the_same_bytes_are_the_same_token_after_each_read(stage: Stage) -> None:
    text = stage.write()
    first = await stage.get()
    assert await stage.get() is first
    stage.write(text + b"\r\n")
    assert await stage.get() is first
    assert stage.parts.metrics.refreshes == {("renewed", "ok"): 1, ("unchanged", "ok"): 2}


# failures and grace


@pytest.mark.parametrize("grace_s", [0, 10])
async def test_a_deleted_file_leaves_the_last_good_token_for_the_grace(tmp_path: Path, grace_s: float) -> None:
    stage = Stage(tmp_path, grace_s=grace_s)
    text = stage.write()
    assert await stage.served(text)
    stage.path.unlink()
    if grace_s:
        assert await stage.served(text)
        assert stage.identity.status().state is IdentityState.STALE
        stage.clock.advance(grace_s - 0.1)
        assert await stage.served(text)
        stage.clock.advance(0.1)
    assert await stage.code() == "identity_unavailable"
    assert stage.identity.status().reasons == ("identity_unavailable",)


async def test_the_grace_counts_from_the_first_failure_and_starts_again_after_a_good_read(stage: Stage) -> None:
    text = stage.write()
    assert await stage.served(text)
    for failing in (b"", b"garbage", text[:50]):
        stage.write(failing)
        assert await stage.served(text)
        stage.clock.advance(3)
    stage.clock.advance(1)
    assert await stage.code() == "identity_malformed"
    second = stage.write()
    assert await stage.served(second)
    stage.path.unlink()
    assert await stage.served(second)


async def test_a_lack_of_descriptors_says_nothing_about_the_token(tmp_path: Path) -> None:
    stage = Stage(tmp_path, grace_s=0)
    text = stage.write()
    with no_descriptor_left():
        found = await stage.get()
    assert isinstance(found, Fault)
    assert (found.code, found.detail.partition(":")[0], "ulimit -n" in found.detail) == ("identity_unavailable", "exhausted", True)
    assert await stage.served(text)
    stage.write()
    with no_descriptor_left():
        stage.clock.advance(100)
        await stage.identity.poll()
        assert await stage.served(text)
        assert stage.identity.status().state is IdentityState.FRESH
        assert stage.parts.metrics.refreshes[("error", "exhausted")] == 3
        stage.clock.advance(500)
        assert await stage.code() == "identity_unavailable", "the token's own time still counts"
    assert not await stage.served(text)


@pytest.mark.parametrize("label", ["not_jwt", "missing"])
async def test_a_lack_of_descriptors_neither_ends_a_grace_nor_begins_it_again(stage: Stage, label: str) -> None:
    text = stage.write()
    assert await stage.served(text)
    if label == "missing":
        stage.path.unlink()  # that it is missing shows without a descriptor
    else:
        stage.write(b"garbage")
    assert await stage.served(text)
    assert stage.parts.metrics.refreshes[("error", label)] == 1
    stage.clock.advance(9)
    with no_descriptor_left():
        assert await stage.served(text)
        stage.clock.advance(1)
        assert await stage.code() == "identity_unavailable"
    assert stage.parts.metrics.refreshes[("error", label)] == (3 if label == "missing" else 1)


async def test_the_grace_never_outlives_the_token(stage: Stage) -> None:
    text = stage.write(lifetime_s=60)
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
async def test_a_wrong_token_in_the_file_has_no_grace(tmp_path: Path, lifetime_s: float, more: dict[str, object], code: str) -> None:
    stage = Stage(tmp_path, rules=TokenRules(audience="broker.example"))
    assert await stage.served(stage.write())
    for _ in range(50):
        stage.write(lifetime_s=lifetime_s, **more)
        assert await stage.code() == code
    assert stage.parts.log.count("identity_misconfigured") == (50 if code == "audience_mismatch" else 0), "once per token"
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
    stage.write(spoil(stage.text()))
    found = await stage.get()
    assert isinstance(found, Fault)
    assert (found.code, found.detail.partition(": ")[0]) == (code, reason)
    assert found.retry_after_s is not None
    stage.write(stage.text() + b"\r\n")
    assert isinstance(await stage.get(), IdentityToken)


async def test_a_token_in_its_file_is_used_from_its_nbf_to_its_expiry(stage: Stage) -> None:
    text = stage.write(lifetime_s=600, claims={"nbf": stage.clock.wall() + 100})
    stage.settle()
    assert await stage.code() == "identity_not_yet_valid"
    stage.clock.advance(69)
    assert await stage.served(text)
    stage.clock.advance(523.9)
    assert await stage.served(text)
    stage.clock.advance(0.2)
    assert stage.identity.status().reasons == ("identity_expired",)
    assert await stage.code() == "identity_expired"
    assert stage.identity.status().state is IdentityState.EXPIRED


async def test_a_token_past_its_use_stays_so_however_often_the_file_is_read_again(stage: Stage) -> None:
    """Its lifetime counts from when it was first seen: judged as new it would have a shorter one, a smaller margin, and come back."""
    stage.write(lifetime_s=10)
    stage.settle()
    assert isinstance(await stage.get(), IdentityToken)
    stage.clock.advance(7.3)  # 0.7 s left, and a tenth of the 8 s that it had is 0.8 s
    assert [await stage.code() for _ in range(3)] == ["identity_expired"] * 3
    await stage.identity.poll()
    assert not stage.identity.status().usable


async def test_a_token_that_grows_byte_by_byte_is_served_only_whole(stage: Stage) -> None:
    old, new = stage.write(), stage.text()
    assert await stage.served(old)
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
    status = stage.identity.status()
    assert (status.expires_in_s, status.state) == (None, IdentityState.FRESH)


async def test_a_token_that_others_may_read_is_warned_of_once(stage: Stage) -> None:
    for _ in range(3):
        stage.write()
        stage.path.chmod(0o644)
        await stage.get()
    assert stage.parts.log.count("token_file_open") == 1


async def test_reads_that_always_meet_a_writer_start_the_grace(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    text = stage.write()
    assert await stage.served(text)
    fstat, ticks = os.fstat, iter(range(10**9))

    def never_twice_the_same(descriptor: int) -> os.stat_result:
        found = fstat(descriptor)
        os.utime(stage.path, ns=(0, next(ticks)))
        return found

    monkeypatch.setattr(os, "fstat", never_twice_the_same)
    requests = await asyncio.gather(*(stage.identity.obtain() for _ in range(20)))
    assert all(same_token(token, Secret(text)) for token in requests)
    assert stage.parts.metrics.torn_reads == 60
    stage.clock.advance(10)
    assert await stage.code() == "identity_unavailable"


async def test_a_read_that_fails_late_does_not_undo_one_that_succeeded(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    stage.write()
    fstat, torn = os.fstat, [True]

    def change_under_the_first_reader(descriptor: int) -> os.stat_result:
        found = fstat(descriptor)
        if torn[0]:
            os.utime(stage.path)
        return found

    monkeypatch.setattr(os, "fstat", change_under_the_first_reader)
    slow = asyncio.ensure_future(stage.identity.obtain())
    await eventually(lambda: stage.parts.metrics.torn_reads == 2, every_s=0.001)
    torn[0] = False
    fast = await stage.identity.obtain()
    torn[0] = True
    assert await slow is fast
    assert stage.identity.status().state is IdentityState.FRESH


# forced reads, life


async def test_responses_401_force_one_read_in_thirty_seconds(stage: Stage) -> None:
    stage.write()
    old = await stage.get()
    assert isinstance(old, IdentityToken)
    stage.write()
    stage.settle()
    await stage.get()
    token = stage.identity.ready()
    assert token is not None
    stage.identity.rejected(old)
    assert stage.identity.ready() is token, "a 401 to a token that was replaced forces nothing"
    reads = 0
    for _ in range(1000):
        stage.identity.rejected(token)
        if stage.identity.ready() is None:
            reads += 1
            await stage.identity.obtain()
        stage.clock.advance(0.01)
    assert reads == 1
    stage.clock.advance(20.1)
    stage.identity.rejected(token)
    assert stage.identity.ready() is None


async def test_the_poll_keeps_readiness_true_without_traffic_and_survives_a_crash(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    await stage.identity.start()
    try:
        assert (stage.parts.changes, stage.identity.status().state) == (0, IdentityState.MISSING)
        crashes = [RuntimeError("eyJ.a.b")]
        read = FileSource.read

        async def crash_once(source: FileSource) -> object:
            if crashes:
                raise crashes.pop()
            return await read(source)

        monkeypatch.setattr(FileSource, "read", crash_once)
        await eventually(lambda: stage.parts.log.codes("identity_crashed") == ["RuntimeError"])
        assert "eyJ" not in repr(stage.parts.log.lines)
        stage.write()
        await eventually(lambda: stage.parts.changes == 1, what="readiness to follow the file")
        assert stage.parts.metrics.ready
    finally:
        await stage.identity.close()
    assert len(stage.parts.tasks) == 0


@pytest.mark.parametrize("reads", [10_000, pytest.param(100_000, marks=pytest.mark.slow)])
async def test_reads_without_number_leave_nothing_behind(stage: Stage, reads: int) -> None:
    text, before = stage.write(), (0, 0)
    for number in range(-1000, reads):
        if number == 0:
            gc.collect()
            before = (len(os.listdir("/proc/self/fd")), sys.getallocatedblocks())
        await stage.identity.obtain()
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) == before[0]
    assert sys.getallocatedblocks() - before[1] < reads / 10
    assert await stage.served(text)


@pytest.mark.parametrize("seconds", [3, pytest.param(60, marks=pytest.mark.slow)])
async def test_careless_writers_cost_no_request_within_the_grace_and_no_half_token_leaves(tmp_path: Path, seconds: float) -> None:
    parts, path = Parts(clock=SystemClock(), source="file"), tmp_path / "token"
    tokens = [make_token(expires_at=time.time() + 3600) for _ in range(16)]
    whole = {fingerprint(Secret(token)) for token in tokens}
    path.write_bytes(tokens[0])
    source = FileSource(str(path), parts.metrics)
    identity = FileIdentity(source, TokenRules(), grace_s=10, dependencies=parts.dependencies, metrics=parts.metrics)
    stop = threading.Event()
    writer = threading.Thread(target=write_carelessly, args=(path, tokens, stop))
    await identity.start()
    writer.start()
    try:
        until, requests = time.monotonic() + seconds, 0
        while time.monotonic() < until:
            token = identity.ready() or await identity.obtain()
            assert fingerprint(token.value) in whole, "something else than a whole token was served"
            requests += 1
            if requests % 50 == 0:
                await asyncio.sleep(0)
    finally:
        stop.set()
        writer.join()
        await identity.close()
    assert requests > 100 * seconds
    assert parts.metrics.refreshes[("renewed", "ok")] > 5
    assert parts.metrics.refreshes[("error", "missing")] > 0


def write_carelessly(path: Path, tokens: list[bytes], stop: threading.Event) -> None:
    """Truncate, write piece by piece, take the permissions away, delete and create again, with pauses of a few milliseconds."""
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

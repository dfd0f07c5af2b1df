"""Key sets from a file and from a URL: rotation, one fetch at a time, how long old keys serve, and what is refused."""

import asyncio
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.identity.parts import Parts
from tests.identity.trust.parts import jwk

from robin.identity.issuer import IssuerRequest, IssuerResponse, IssuerUnreachable
from robin.identity.trust.key_sources import FileKeys, KeySource, KeysUnavailable, UrlKeys, build_key_source
from robin.identity.trust.settings import JwksSettings
from robin.model.secret import Secret
from robin.testing.waiting import eventually

ONE, TWO = (json.dumps({"keys": [jwk("P-256", kid=kid)]}).encode() for kid in ("one", "two"))


def kid(keys: object) -> str | None:
    """The name of the only key of a set; None where there is no set."""
    return None if keys is None else keys.keys[0].kid  # type: ignore[attr-defined, no-any-return]


async def unavailable(source: KeySource) -> str:
    with pytest.raises(KeysUnavailable) as raised:
        await source.obtain()
    return raised.value.reason


# a file


class FileStage:
    def __init__(self, folder: Path) -> None:
        self.path = folder / "jwks.json"
        self.clock = Parts().clock
        self.keys = FileKeys(str(self.path), clock=self.clock, max_stale_s=100)

    def write(self, text: bytes) -> None:
        fresh = self.path.with_suffix(".fresh")
        fresh.write_bytes(text)
        os.replace(fresh, self.path)


@pytest.fixture
def file(tmp_path: Path) -> FileStage:
    return FileStage(tmp_path)


async def test_a_replaced_file_is_used_within_a_second(file: FileStage) -> None:
    file.write(ONE)
    assert kid(file.keys.ready()) == "one"
    file.write(TWO)
    assert kid(file.keys.ready()) == "one", "looked at more than once a second"
    file.clock.advance(1)
    assert kid(file.keys.ready()) == "two"
    assert kid(await file.keys.renew()) == "two"


async def test_an_unchanged_file_is_not_read_again(file: FileStage) -> None:
    file.write(ONE)
    first = file.keys.ready()
    for _ in range(1000):
        file.clock.advance(1)
        assert file.keys.ready() is first


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda path: path.unlink(), "unreadable"),
        (lambda path: path.write_bytes(b"{"), "not_json"),
        (lambda path: path.write_bytes(b" " * 262145), "too_large"),
        (lambda path: path.write_bytes(b'{"keys":[]}'), "no_usable_key"),
    ],
)
async def test_a_spoiled_file_leaves_the_last_keys_for_a_while(file: FileStage, spoil: Callable[[Path], object], reason: str) -> None:
    file.write(ONE)
    assert kid(file.keys.ready()) == "one"
    spoil(file.path)
    for _ in range(99):
        file.clock.advance(1)
        assert kid(file.keys.ready()) == "one"
    file.clock.advance(1)
    assert file.keys.ready() is None
    assert await unavailable(file.keys) == reason
    file.write(TWO)
    file.clock.advance(1)
    assert kid(await file.keys.obtain()) == "two"


@pytest.mark.parametrize("held", [False, True], ids=["without a writer", "with a writer"])
async def test_a_fifo_in_place_of_the_file_does_not_hang(file: FileStage, *, held: bool) -> None:
    os.mkfifo(file.path)
    descriptor = os.open(file.path, os.O_RDWR) if held else os.open(os.devnull, os.O_RDONLY)
    assert await unavailable(file.keys) == "unreadable"
    os.close(descriptor)


async def test_a_file_that_was_just_written_is_read_again_since_a_second_write_may_leave_its_stat_as_it_was(file: FileStage) -> None:
    file.write(ONE)
    file.clock.step_wall(file.path.stat().st_ctime - file.clock.wall())
    first = file.keys.ready()
    file.clock.advance(2)
    settled = file.keys.ready()
    assert settled is not first
    file.clock.advance(1)
    assert file.keys.ready() is settled


# a URL


class UrlStage:
    """A source and its client, which is this object: `reply` is a response's body, a status, a failure, or a function."""

    def __init__(self, **changes: Any) -> None:
        self.parts = Parts()
        self.clock = self.parts.clock
        self.requests: list[IssuerRequest] = []
        self.reply: bytes | int | Exception = ONE
        self.gate = asyncio.Event()
        self.gate.set()
        settings = JwksSettings(url="https://issuer.example/jwks", **changes)
        self.keys = build_key_source(
            settings, client=self, clock=self.clock, entropy=self.parts.dependencies.entropy, tasks=self.parts.tasks
        )
        assert isinstance(self.keys, UrlKeys)

    async def send(self, request: IssuerRequest, deadline_at: float) -> IssuerResponse:
        self.requests.append(request)
        await self.gate.wait()
        if isinstance(self.reply, Exception):
            raise self.reply
        status, body = (200, self.reply) if isinstance(self.reply, bytes) else (self.reply, ONE)
        return IssuerResponse(status=status, fields={}, body=Secret(body))

    async def finish(self) -> None:
        await eventually(lambda: len(self.parts.tasks) == 0, every_s=0, what="the end of the fetch")


async def test_the_first_token_waits_for_the_keys_and_one_fetch_serves_all() -> None:
    stage = UrlStage(ca_file="/ca.pem")
    assert stage.keys.ready() is None
    found = await asyncio.gather(*(stage.keys.obtain() for _ in range(50)))
    assert {kid(keys) for keys in found} == {"one"}
    (request,) = stage.requests
    assert (request.method, request.url, request.body, request.ca_file, request.limit_bytes) == (
        "GET", "https://issuer.example/jwks", None, "/ca.pem", 262144,
    )  # fmt: skip


async def test_a_request_that_leaves_does_not_stop_the_fetch() -> None:
    stage = UrlStage()
    stage.gate.clear()
    leaving, staying = asyncio.ensure_future(stage.keys.obtain()), asyncio.ensure_future(stage.keys.obtain())
    await eventually(lambda: len(stage.requests) == 1)
    leaving.cancel()
    stage.gate.set()
    assert kid(await staying) == "one"
    assert len(stage.requests) == 1


async def test_keys_that_are_due_are_renewed_behind_the_requests() -> None:
    stage = UrlStage()
    await stage.keys.obtain()
    stage.reply = TWO
    stage.clock.advance(269)
    assert kid(stage.keys.ready()) == "one"
    assert len(stage.requests) == 1
    stage.clock.advance(32)
    assert kid(stage.keys.ready()) == "one"
    await stage.finish()
    assert kid(stage.keys.ready()) == "two"
    assert len(stage.requests) == 2


async def test_keys_that_were_idle_for_long_are_renewed_before_they_are_used() -> None:
    """A key that the issuer withdrew is not used for the first token after a quiet night."""
    stage = UrlStage()
    await stage.keys.obtain()
    stage.reply = TWO
    stage.clock.advance(600)
    assert stage.keys.ready() is None
    assert kid(await stage.keys.obtain()) == "two"


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (IssuerUnreachable("connect"), "connect"),
        (IssuerUnreachable("tls"), "tls"),
        (301, "status_301"),
        (500, "status_500"),
        (204, "status_204"),
        (b"{", "not_json"),
        (b'{"keys":[]}', "no_usable_key"),
        (b" " * 262145, "too_large"),
    ],
)
async def test_when_fetches_fail_the_last_keys_serve_for_max_stale(reply: bytes | int | Exception, reason: str) -> None:
    stage = UrlStage(max_stale_s=3600)
    await stage.keys.obtain()
    stage.reply = reply
    for _ in range(359):
        stage.clock.advance(10)
        assert kid(await stage.keys.obtain()) == "one"
        await stage.finish()
    stage.clock.advance(10)
    assert await unavailable(stage.keys) == reason
    assert isinstance(stage.keys, UrlKeys)
    assert stage.keys.fetches == {"ok": 1, reason: len(stage.requests) - 1}
    assert len(stage.requests) <= 335, "tried more than once per min_refetch"
    stage.reply = TWO
    stage.clock.advance(10)
    assert kid(await stage.keys.obtain()) == "two"
    assert stage.keys.age_s == 0


async def test_an_issuer_that_never_had_keys_is_asked_once_per_min_refetch() -> None:
    stage = UrlStage()
    stage.reply = IssuerUnreachable("connect")
    for _ in range(100):
        assert await unavailable(stage.keys) == "connect"
        stage.clock.advance(1)
    assert len(stage.requests) == 10


async def test_unknown_kids_cause_one_fetch_per_min_refetch_however_many_tokens_name_them() -> None:
    stage = UrlStage()
    await stage.keys.obtain()
    for _ in range(30):
        await asyncio.gather(*(stage.keys.renew() for _ in range(20)))
        stage.clock.advance(1)
    assert len(stage.requests) == 3
    stage.reply = TWO
    stage.clock.advance(10)
    assert {kid(keys) for keys in await asyncio.gather(*(stage.keys.renew() for _ in range(20)))} == {"two"}


async def test_an_issuer_that_hangs_delays_a_token_for_the_timeout_at_most() -> None:
    stage = UrlStage(fetch_timeout_s=0.02)
    stage.gate.clear()
    assert await unavailable(stage.keys) in {"timeout", "not_fetched"}
    await stage.finish()
    assert await unavailable(stage.keys) == "timeout"


async def test_an_issuer_that_hangs_leaves_the_last_keys_in_use_for_max_stale() -> None:
    stage = UrlStage(fetch_timeout_s=0.02, max_stale_s=3600)
    await stage.keys.obtain()
    stage.gate.clear()
    stage.clock.advance(600)
    assert kid(await stage.keys.obtain()) == "one", "refused while its own fetch runs out of time"
    for _ in range(299):
        await stage.finish()
        stage.clock.advance(10)
        assert kid(stage.keys.ready()) == "one", "waits for the issuer again"
    await stage.finish()
    stage.clock.advance(10)
    assert stage.keys.ready() is None


async def test_a_token_that_waited_for_a_slow_failure_starts_no_second_wait() -> None:
    """A fetch takes as long as `min_refetch_s`, so that the next one is due when it ends."""
    stage = UrlStage()
    await stage.keys.obtain()
    stage.gate.clear()
    stage.reply = IssuerUnreachable("timeout")
    stage.clock.advance(600)
    waiting = asyncio.ensure_future(stage.keys.obtain())
    await eventually(lambda: len(stage.requests) == 2)
    stage.clock.advance(10)
    stage.gate.set()
    assert kid(await waiting) == "one"


async def test_keys_whose_last_failed_try_lies_long_ago_are_renewed_before_they_are_used() -> None:
    stage = UrlStage()
    await stage.keys.obtain()
    stage.reply = IssuerUnreachable("connect")
    stage.clock.advance(300)
    stage.keys.ready()
    await stage.finish()
    stage.reply = TWO
    stage.clock.advance(3600)
    assert stage.keys.ready() is None
    assert kid(await stage.keys.obtain()) == "two"


@pytest.mark.parametrize(
    "bearer", [b"", b"a\nb", b"a b", "\u00e9".encode(), b"a" * 16385], ids=["empty", "lines", "space", "utf-8", "long"]
)
async def test_a_bearer_that_is_no_token_is_not_sent(tmp_path: Path, bearer: bytes) -> None:
    (tmp_path / "token").write_bytes(bearer)
    stage = UrlStage(bearer_file=str(tmp_path / "token"))
    assert await unavailable(stage.keys) == "bearer_unreadable"
    assert stage.requests == []


async def test_a_bearer_is_read_for_each_fetch(tmp_path: Path) -> None:
    path = tmp_path / "token"
    stage = UrlStage(bearer_file=str(path))
    assert await unavailable(stage.keys) == "bearer_unreadable"
    assert stage.requests == []
    path.write_bytes(b"abc\n")
    stage.clock.advance(10)
    await stage.keys.obtain()
    assert [(name, value.reveal()) for name, value in stage.requests[0].fields][1] == ("Authorization", b"Bearer abc")


async def test_a_bug_in_the_client_reaches_the_owner_of_the_task_and_the_next_try_is_made() -> None:
    stage = UrlStage()
    stage.reply = RuntimeError("broken")
    assert await unavailable(stage.keys) == "internal"
    await stage.finish()
    assert [type(error) for _, error in stage.parts.crashes] == [RuntimeError]
    stage.reply = ONE
    stage.clock.advance(10)
    assert kid(await stage.keys.obtain()) == "one"


async def test_a_file_setting_gives_a_file_source(tmp_path: Path) -> None:
    parts = Parts()
    source = build_key_source(
        JwksSettings(file=str(tmp_path / "x")),
        client=UrlStage(),
        clock=parts.clock,
        entropy=parts.dependencies.entropy,
        tasks=parts.tasks,
    )
    assert isinstance(source, FileKeys)

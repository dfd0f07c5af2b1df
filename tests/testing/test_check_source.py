"""The conformance suite finds what it is there to find: each broken source fails the check that it breaks."""

import asyncio
import os
from collections.abc import Callable
from dataclasses import replace

import pytest

from robin.identity.source import RawIdentity, SourceFailure
from robin.model.secret import Secret
from robin.testing.check_source import Platform, check_source
from robin.testing.tokens import make_token

WALL = 1_780_000_000.0


class Good:
    """A source that does everything right, on a platform that is a variable."""

    def __init__(self) -> None:
        self.token: bytes | None = None
        self.opened: list[int] = []

    async def fetch(self, audience: str | None) -> RawIdentity:
        if self.token is None:
            raise SourceFailure("missing", "missing: nothing there; put it there")
        return RawIdentity(text=Secret(self.token))


class Stale(Good):
    """Gives the first token for ever."""

    async def fetch(self, audience: str | None) -> RawIdentity:
        self.first = getattr(self, "first", self.token)
        assert self.first is not None
        return RawIdentity(text=Secret(self.first))


class Remembering(Good):
    """Gives its last token where the platform has none."""

    last: bytes | None = None

    async def fetch(self, audience: str | None) -> RawIdentity:
        self.last = self.token or self.last
        assert self.last is not None
        return RawIdentity(text=Secret(self.last))


class Telling(Good):
    """Puts the token into its failure."""

    last = ""

    async def fetch(self, audience: str | None) -> RawIdentity:
        if self.token is None:
            raise SourceFailure("missing", f"missing: had {self.last}; put it there")
        self.last = self.token.decode()
        return RawIdentity(text=Secret(self.token))


class Leaking(Good):
    """Opens a descriptor with each fetch."""

    async def fetch(self, audience: str | None) -> RawIdentity:
        self.opened.append(os.open("/dev/null", os.O_RDONLY))
        return await super().fetch(audience)


class Lingering(Good):
    """Starts a task with each fetch that nobody ends."""

    async def fetch(self, audience: str | None) -> RawIdentity:
        self.begin()
        return await super().fetch(audience)

    def begin(self) -> None:
        self.tasks = [*getattr(self, "tasks", ()), asyncio.get_running_loop().create_task(asyncio.Event().wait(), name="a watch")]


class LeavingOnCancel(Lingering):
    """Starts a task when a fetch is cancelled."""

    async def fetch(self, audience: str | None) -> RawIdentity:
        try:
            for _ in range(9):
                await asyncio.sleep(0)
        except asyncio.CancelledError:
            self.begin()
            raise
        return await Good.fetch(self, audience)


class Uncoded(Good):
    """Fails with a code that no one knows."""

    async def fetch(self, audience: str | None) -> RawIdentity:
        if self.token is None:
            raise SourceFailure("missing", "missing: nothing there; put it there", fault="upstream_closed")
        return await super().fetch(audience)


class Curt(Good):
    """Fails without a fix."""

    async def fetch(self, audience: str | None) -> RawIdentity:
        if self.token is None:
            raise SourceFailure("missing", "nope")
        return await super().fetch(audience)


def platform_of(source: Good) -> Platform:
    async def offer(token: bytes) -> None:
        source.token = token

    async def withdraw() -> None:
        source.token = None

    return Platform(source=source, audience="broker.example", offer=offer, withdraw=withdraw, wall=WALL)


async def test_a_good_source_passes() -> None:
    await check_source(platform_of(Good()))


@pytest.mark.parametrize(
    ("build", "found"),
    [
        (Stale, "something else than the platform"),
        (Remembering, "a platform without a token gave one"),
        (Telling, "a part of the token shows"),
        (Leaking, "descriptors grew"),
        (Lingering, r"2 tasks outlived their fetch: \['a watch'\]"),
        (LeavingOnCancel, r"1 tasks outlived their fetch: \['a watch'\]"),
        (Uncoded, "is no identity code"),
        (Curt, "no `reason: what; fix`"),
    ],
)
async def test_a_broken_source_fails_the_check_that_it_breaks(build: Callable[[], Good], found: str) -> None:
    source = build()
    try:
        with pytest.raises(AssertionError, match=found):
            await check_source(platform_of(source))
    finally:
        for descriptor in source.opened:
            os.close(descriptor)


async def test_the_tasks_of_the_platform_are_not_held_against_the_source() -> None:
    source = Lingering()
    await check_source(replace(platform_of(source), owns=lambda task: task.get_name() == "a watch"))
    assert not any(task.done() for task in source.tasks)


async def test_a_source_that_hangs_fails_within_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    class Hanging(Good):
        async def fetch(self, audience: str | None) -> RawIdentity:
            await asyncio.Event().wait()
            return RawIdentity(text=Secret(make_token(expires_at=WALL)))

    monkeypatch.setattr("robin.testing.check_source._LIMIT_S", 0.05)
    with pytest.raises(TimeoutError):
        await check_source(platform_of(Hanging()))

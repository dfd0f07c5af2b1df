"""The conformance suite of identity sources: what any source must do, checked against a real platform that the caller drives.

A new source runs it once in `tests/conformance/test_sources.py`; each check returns, or raises AssertionError with what was wrong.
"""

import asyncio
import hashlib
import os
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final

from robin.identity.source import FailureClass, IdentitySource, RawIdentity, SourceFailure
from robin.model.faults import FAULTS, Fault, FaultSource
from robin.testing.tokens import make_token
from robin.wire.jwt_inspection import TokenRules, fingerprint, inspect_token

_FETCHES: Final = 200
_LIMIT_S: Final = 30.0
_ENDS_WITHIN_S: Final = 1.0
_DETAIL: Final = re.compile(r"[a-z][a-z0-9_]*: .*; .*", re.DOTALL)


@dataclass(frozen=True, slots=True, kw_only=True)
class Platform:
    """A source and the platform behind it. `offer` makes the platform give this token for `audience`; `withdraw` leaves it nothing to give.

    `stall`, where the platform can: it does not respond until the next `offer`; None where a fetch cannot hang. `owns` tells the tasks of a
    platform that lives in the loop of the source; any other task that begins while the suite runs is the source's.
    """

    source: IdentitySource
    audience: str
    offer: Callable[[bytes], Awaitable[None]]
    withdraw: Callable[[], Awaitable[None]]
    wall: float
    stall: Callable[[], Awaitable[None]] | None = None
    owns: Callable[[asyncio.Task[Any]], bool] = lambda _: False


async def check_source(platform: Platform) -> None:
    """Every check, in an order that needs no fresh platform between them."""
    async with asyncio.timeout(_LIMIT_S):
        before = asyncio.all_tasks()
        await check_gives_what_the_platform_has(platform)
        await check_keeps_nothing(platform)
        await check_hides_the_token(platform)
        await check_survives_cancellation(platform)
        await check_leaks_nothing(platform)
        await _no_task_is_left(platform, before)  # a task begun once, by the first fetch, is none too many for the checks after it


async def check_gives_what_the_platform_has(platform: Platform) -> None:
    """Each fetch returns the newest token, and it passes the checks of every token."""
    for _ in range(3):
        token = _token(platform)
        await platform.offer(token)
        raw = await platform.source.fetch(platform.audience)
        assert fingerprint(raw.text) == hashlib.sha256(token).digest(), "the source gave something else than the platform"
        checked = inspect_token(raw.text, TokenRules(audience=platform.audience), now=platform.wall, issued_to=raw.issued_to)
        assert platform.audience in checked.audiences


async def check_keeps_nothing(platform: Platform) -> None:
    """A platform without a token is a SourceFailure with a public code, not an old token; and it recovers by itself."""
    await platform.offer(_token(platform))
    await platform.source.fetch(platform.audience)
    await platform.withdraw()
    failure = await _failure(platform)
    code = failure.fault if isinstance(failure, SourceFailure) else failure.code
    assert FAULTS[code].source is FaultSource.IDENTITY, f"{code} is no identity code"
    assert _DETAIL.fullmatch(failure.detail), f"no `reason: what; fix` in {failure.detail!r}"
    if isinstance(failure, SourceFailure):
        assert failure.label, "the failure has no label"
        assert failure.failure_class in FailureClass
    await platform.offer(_token(platform))
    await platform.source.fetch(platform.audience)


async def check_hides_the_token(platform: Platform) -> None:
    """No repr and no failure holds bytes of a token."""
    token = _token(platform)
    await platform.offer(token)
    raw = await platform.source.fetch(platform.audience)
    await platform.withdraw()
    failure = await _failure(platform)
    for shown in (repr(raw), str(raw), repr(failure), str(failure), failure.detail):
        assert not any(part in shown for part in token.decode().split(".")), "a part of the token shows"


async def check_survives_cancellation(platform: Platform) -> None:
    """A fetch cancelled at once, or while the platform hangs, leaves a source that works."""
    await platform.offer(_token(platform))
    before = asyncio.all_tasks()
    await _cancelled(platform, after_s=0)
    if platform.stall is not None:
        await platform.stall()
        await _cancelled(platform, after_s=0.05)
    await platform.offer(_token(platform))
    await platform.source.fetch(platform.audience)
    await _no_task_is_left(platform, before)


async def check_leaks_nothing(platform: Platform) -> None:
    """Fetches, good or failed, leave no task behind, and descriptors do not grow with them."""
    tasks = asyncio.all_tasks()
    await platform.offer(_token(platform))
    await platform.source.fetch(platform.audience)
    before = _descriptors()
    for _ in range(_FETCHES):
        await platform.source.fetch(platform.audience)
    await platform.withdraw()
    for _ in range(20):
        await _failure(platform)
    await platform.offer(_token(platform))
    await platform.source.fetch(platform.audience)
    assert _descriptors() <= before + 2, f"descriptors grew from {before} to {_descriptors()}"
    await _no_task_is_left(platform, tasks)


def _token(platform: Platform) -> bytes:
    return make_token(expires_at=platform.wall + 600, audience=platform.audience)


async def _failure(platform: Platform) -> SourceFailure | Fault:
    try:
        raw: RawIdentity = await platform.source.fetch(platform.audience)
    except (SourceFailure, Fault) as failure:
        return failure
    raise AssertionError(f"a platform without a token gave one: {raw!r}")


async def _cancelled(platform: Platform, *, after_s: float) -> None:
    fetch = asyncio.get_running_loop().create_task(platform.source.fetch(platform.audience), name="fetch under test")
    await asyncio.wait((fetch,), timeout=after_s)
    fetch.cancel()
    await asyncio.gather(fetch, return_exceptions=True)
    assert fetch.done()


async def _no_task_is_left(platform: Platform, before: set[asyncio.Task[Any]]) -> None:
    """Every task since `before` that is not the platform's has ended, or ends within a moment: a cancelled one needs a turn for it."""
    left = {task for task in asyncio.all_tasks() - before if not platform.owns(task)}
    if left:
        _, left = await asyncio.wait(left, timeout=_ENDS_WITHIN_S)
    assert not left, f"{len(left)} tasks outlived their fetch: {sorted({task.get_name() for task in left})[:5]}"


def _descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))

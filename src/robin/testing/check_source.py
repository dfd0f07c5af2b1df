"""The conformance suite of identity sources: what any source must do, checked against a real platform that the caller drives.

A new source runs it once in `tests/conformance/test_sources.py`; each check returns, or raises AssertionError with what was wrong.
"""

import asyncio
import hashlib
import os
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from robin.identity.source import IdentitySource, Outlook, RawIdentity, SourceFailure
from robin.model.faults import FAULTS, Fault, FaultSource
from robin.testing.tokens import make_token
from robin.wire.jose import TokenRules, fingerprint, inspect_token

_FETCHES: Final = 200
_LIMIT_S: Final = 30.0
_DETAIL: Final = re.compile(r"[a-z][a-z0-9_]*: .*; .*", re.DOTALL)


@dataclass(frozen=True, slots=True, kw_only=True)
class Platform:
    """A source and the platform behind it. `offer` makes the platform give this token for `audience`; `withdraw` leaves it nothing to give.

    `stall`, where the platform can: it answers nobody until the next `offer`; None where a fetch cannot hang.
    """

    source: IdentitySource
    audience: str
    offer: Callable[[bytes], Awaitable[None]]
    withdraw: Callable[[], Awaitable[None]]
    wall: float
    stall: Callable[[], Awaitable[None]] | None = None


async def check_source(platform: Platform) -> None:
    """Every check, in an order that needs no fresh platform between them."""
    async with asyncio.timeout(_LIMIT_S):
        await check_gives_what_the_platform_has(platform)
        await check_keeps_nothing(platform)
        await check_hides_the_token(platform)
        await check_survives_cancellation(platform)
        await check_leaks_nothing(platform)


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
        assert failure.outlook in Outlook
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
    assert not {task for task in asyncio.all_tasks() - before if "fetch" in task.get_name()}, "a task of the source outlived its fetch"


async def check_leaks_nothing(platform: Platform) -> None:
    """Descriptors do not grow with fetches, good or failed."""
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


def _descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))

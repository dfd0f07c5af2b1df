"""How often one issuer is called: so many calls each second, a burst after a pause, and few at the same time. One bound per issuer."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from robin.grants.grant import GrantFailure, GrantFailureClass
from robin.grants.settings import CacheSettings, origin_of
from robin.transport.clock import Clock


class IssuerRate:
    """The bound of one issuer. A call that would wait past its deadline is refused at once."""

    __slots__ = ("_burst_s", "_clock", "_every_s", "_free", "_full_at")

    def __init__(self, clock: Clock, *, per_s: float, burst: int, concurrency: int) -> None:
        self._clock = clock
        self._every_s = 1.0 / per_s
        self._burst_s = burst * self._every_s
        self._full_at = clock.monotonic()  # when all calls that were let go are paid for
        self._free = asyncio.Semaphore(concurrency)

    @asynccontextmanager
    async def call(self, left_s: float) -> AsyncIterator[None]:
        """Hold one of the places for a call; waits for at most `left_s`. Raises GrantFailure `issuer_overloaded`."""
        now = self._clock.monotonic()
        full_at = max(self._full_at, now) + self._every_s
        delay_s = full_at - self._burst_s - now
        if delay_s >= left_s:
            raise _overloaded()
        self._full_at = full_at
        try:
            async with asyncio.timeout(left_s):
                if delay_s > 0:
                    await asyncio.sleep(delay_s)
                await self._free.acquire()
        except TimeoutError:
            raise _overloaded() from None
        try:
            yield
        finally:
            self._free.release()


class IssuerRates:
    """The bounds of all issuers: one for each scheme, host and port that is called."""

    __slots__ = ("_by_origin", "_clock", "_settings")

    def __init__(self, clock: Clock, settings: CacheSettings) -> None:
        self._clock = clock
        self._settings = settings
        self._by_origin: dict[str, IssuerRate] = {}

    def of(self, url: str) -> IssuerRate:
        """Return the bound of the issuer of this URL. Their number is that of the token endpoints in the configuration."""
        settings, origin = self._settings, origin_of(url)
        found = self._by_origin.get(origin)
        if found is None:
            bounds = {"per_s": settings.rate_per_s, "burst": settings.rate_burst, "concurrency": settings.concurrency}
            found = self._by_origin[origin] = IssuerRate(self._clock, **bounds)  # type: ignore[arg-type]
        return found


def _overloaded() -> GrantFailure:
    text = "issuer_rate: too many calls to this issuer are waiting; raise {issuer_rate} if the issuer can take more"
    return GrantFailure(GrantFailureClass.RETRY, "issuer_overloaded", text)

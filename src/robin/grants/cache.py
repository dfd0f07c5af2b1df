"""The only cache of credentials: one fetch per key at a time, refresh ahead of expiry, a negative cache, bounded in number.

Rules to keep. FRESH: use it. STALE (past an instant drawn once, at 70 to 90 % of its usable time): use it while one fetch runs behind it.
EXPIRED: wait for the fetch. The fetch is owned by the cache: a request that is cancelled or gives up neither stops nor fails it. A failed
fetch leaves a valid credential in use, and no further fetch starts before its wait is over. Ages count
suspensions of the machine; a wall clock past the expiry ends a credential too. A key that has brought no credential takes the place of none
that has: many keys of one caller that fail or wait push out no token of another.
"""

import asyncio
import math
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Hashable, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Any, Final

from robin.grants.grant import GrantFailure, GrantFailureClass
from robin.model.credential import Credential
from robin.model.faults import Fault
from robin.transport.clock import Clock
from robin.transport.entropy import Entropy
from robin.transport.tasks import TaskOwner
from robin.wire.jwt_inspection import fingerprint

Fetch = Callable[[], Coroutine[Any, Any, tuple[Credential, float]]]
"""Fetches one credential and its usable seconds, counted from the call. Raises GrantFailure or Fault."""

OnForced = Callable[[Hashable, str], None]
"""Called with the key and what a 401 led to: `refreshed`, `same_token`, `suppressed`, `failed`."""

RETRY_AFTER_MAX_S: Final = 300.0
_THROTTLED_FIRST_S: Final = 5.0
_FORCED_MAX_S: Final = 600.0
_TIMEOUT: Final = "timeout: the issuer gave no response in time; check the issuer"
_INTERNAL: Final = "internal: the grant failed or was stopped; see the log"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Backoff:
    """Waits double from `first_s` to `most_s`; each is drawn from [`low`, `high`) times itself."""

    first_s: float
    most_s: float
    low: float
    high: float


_BACKOFFS: Final = {
    GrantFailureClass.RETRY: _Backoff(first_s=1, most_s=60, low=0.5, high=1.0),
    GrantFailureClass.REAUTHORIZE: _Backoff(first_s=60, most_s=600, low=0.9, high=1.1),
    GrantFailureClass.FIX_CONFIGURATION: _Backoff(first_s=30, most_s=600, low=0.9, high=1.1),
    GrantFailureClass.INVESTIGATE: _Backoff(first_s=30, most_s=600, low=0.9, high=1.1),
}


def wait_s(failure: GrantFailure, failures: int, draw: float) -> float:
    """Return the seconds to the next call after `failures` earlier failures in a row. `draw` is uniform in [0, 1)."""
    backoff = _BACKOFFS[failure.failure_class]
    first_s = _THROTTLED_FIRST_S if failure.throttled else backoff.first_s
    own_s = min(backoff.most_s, first_s * 2.0 ** min(failures, 16)) * (backoff.low + (backoff.high - backoff.low) * draw)
    return own_s if failure.retry_after_s is None else max(own_s, min(failure.retry_after_s, RETRY_AFTER_MAX_S))


class _Entry:
    """The state of one key. Times are those of `boottime`, except `wall_until`."""

    __slots__ = (
        "credential",
        "done",
        "failure",
        "failures",
        "fetch",
        "forced_at",
        "forced_every_s",
        "key",
        "next_at",
        "rejected",
        "running",
        "stale_at",
        "usable_until",
        "wall_until",
    )

    def __init__(self, key: Hashable, fetch: Fetch, forced_every_s: float) -> None:
        self.key = key
        self.fetch = fetch
        self.credential: Credential | None = None
        self.usable_until = self.wall_until = self.stale_at = 0.0
        self.running = False
        self.done: asyncio.Future[Credential | GrantFailure | Fault] | None = None  # resolved at the end of the running fetch
        self.failure: GrantFailure | None = None  # of the last fetch; None: it succeeded
        self.failures = 0
        self.next_at = -math.inf  # no fetch starts before
        self.rejected = False  # a 401 was seen and its fetch runs: requests wait for it
        self.forced_at = -math.inf
        self.forced_every_s = forced_every_s


class CredentialCache:
    """Holds credentials by key; the least recently used one gives way beyond `entries_max`, the bound also of the keys that have none.

    `wait_s` bounds the wait of one request, `fetch_s` one fetch. A 401 forces at most one fetch per key and `forced_every_s`, a wait that
    doubles up to ten minutes while 401s go on.
    """

    def __init__(
        self,
        *,
        clock: Clock,
        entropy: Entropy,
        tasks: TaskOwner,
        wait_s: float = 10.0,
        fetch_s: float = 20.0,
        entries_max: int = 4096,
        forced_every_s: float = 60.0,
        on_forced: OnForced = lambda _key, _result: None,
    ) -> None:
        self._clock = clock
        self._entropy = entropy
        self._tasks = tasks
        self._wait_s = wait_s
        self._fetch_s = fetch_s
        self._entries_max = entries_max
        self._forced_every_s = forced_every_s
        self._on_forced = on_forced
        self._entries: OrderedDict[Hashable, _Entry] = OrderedDict()  # those that have brought a credential
        self._empty: OrderedDict[Hashable, _Entry] = OrderedDict()  # those that have not: the fetch runs, or failed

    def __len__(self) -> int:
        """How many keys have a credential."""
        return len(self._entries)

    def look(self, key: Hashable) -> tuple[Credential | None, str]:
        """The credential of a key, whether it is usable or not, and what a request finds now; starts nothing.

        That is `hit`, `stale`, `joined` (a fetch runs), `negative` (the last one failed), or `miss`.
        """
        entry = self._entries.get(key) or self._empty.get(key)
        if entry is None:
            return None, "miss"
        now = self._clock.boottime()
        if not entry.rejected and now < entry.usable_until:
            return entry.credential, "stale" if now >= entry.stale_at else "hit"
        if entry.running:
            return entry.credential, "joined"
        return entry.credential, "negative" if entry.failure is not None and now < entry.next_at else "miss"

    def usable_s(self) -> list[tuple[Hashable, float]]:
        """The keys whose credentials can still be used, and the seconds that each has left."""
        now = self._clock.boottime()
        return [
            (key, one.usable_until - now) for key, one in self._entries.items() if one.credential is not None and one.usable_until > now
        ]

    def flights(self) -> list[Hashable]:
        """The keys of the fetches under way."""
        return [entry.key for entry in self._all() if entry.running]

    def waiting(self) -> list[GrantFailureClass]:
        """The classes of the failures whose wait is not over."""
        now = self._clock.boottime()
        return [one.failure.failure_class for one in self._all() if one.failure is not None and now < one.next_at]

    def ready(self, key: Hashable) -> Credential | None:
        """Return the credential if it is usable now, and start a fetch behind it if it is STALE; None when it must be obtained."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        self._entries.move_to_end(key)
        return self._usable(entry)

    async def obtain(self, key: Hashable, fetch: Fetch, *, waits: int = 1) -> Credential:
        """Return a usable credential, after the running fetch or a new one. Raises GrantFailure, or the identity's Fault.

        `waits` multiplies how long a request waits: a chain of grants has twice the time of one.
        """
        entry = self._entry(key, fetch)
        credential = self._usable(entry)
        if credential is not None:
            return credential
        now = self._clock.boottime()
        if not entry.running:
            if entry.failure is not None and now < entry.next_at:
                raise _again(entry.failure, entry.next_at - now)
            self._start(entry)
        outcome = await self._outcome(entry, waits)
        if outcome is None:
            credential = self._usable(entry)
            if credential is None:
                raise _failure(_TIMEOUT)
            return credential
        if isinstance(outcome, Credential):
            return outcome
        credential = self._usable(entry)  # a forced fetch failed, and the credential before it is still valid
        if credential is not None:
            return credential
        if isinstance(outcome, Fault):
            raise Fault(outcome.code, outcome.detail, retry_after_s=outcome.retry_after_s)
        raise _again(outcome, max(0.0, entry.next_at - self._clock.boottime()))

    def rejected(self, key: Hashable, credential: Credential) -> None:
        """Record that an origin responded 401 to this credential. Starts a fetch unless it was replaced, or one was forced lately."""
        entry = self._entries.get(key)
        if entry is None or entry.credential is not credential or entry.running:
            return
        now = self._clock.boottime()
        since_s = now - entry.forced_at
        if now < entry.next_at or since_s < entry.forced_every_s:
            self._on_forced(key, "suppressed")
            return
        entry.forced_every_s = min(_FORCED_MAX_S, entry.forced_every_s * 2) if since_s < 2 * entry.forced_every_s else self._forced_every_s
        entry.forced_at = now
        entry.rejected = True
        self._start(entry)
        assert entry.done is not None
        entry.done.add_done_callback(lambda done: self._on_forced(key, _result_of(done.result(), credential)))

    async def renew(self, key: Hashable, credential: Credential) -> Credential | None:
        """Record that an origin responded 401 to this credential, and return the one that replaces it. None: it was not replaced.

        It was replaced already, or the running fetch replaces it; no fetch starts that `rejected` would not start.
        """
        self.rejected(key, credential)
        entry = self._entries.get(key)
        if entry is None:
            return None
        if entry.running and entry.credential is credential:
            await self._outcome(entry)
        current = self._usable(entry)
        return None if current is credential else current

    def retain(self, keeps: Callable[[Hashable], bool]) -> None:
        """A new configuration: drop the entries of other keys, which it made unreachable; those that failed may be tried at once."""
        for entries in (self._entries, self._empty):
            for key in [key for key in entries if not keeps(key)]:
                del entries[key]
        for entry in self._all():
            entry.failure, entry.failures, entry.next_at = None, 0, -math.inf

    def _all(self) -> Iterator[_Entry]:
        return chain(self._entries.values(), self._empty.values())

    def _entry(self, key: Hashable, fetch: Fetch) -> _Entry:
        for entries in (self._entries, self._empty):
            if (entry := entries.get(key)) is not None:
                entry.fetch = fetch
                entries.move_to_end(key)
                return entry
        empty = self._empty
        if len(empty) >= self._entries_max:  # a fetch that runs goes last, and still serves those that wait for it
            del empty[next((one.key for one in empty.values() if not one.running), next(iter(empty)))]
        entry = empty[key] = _Entry(key, fetch, self._forced_every_s)
        return entry

    def _keep(self, entry: _Entry) -> None:
        """It has brought a credential. One that gave way, or was withdrawn meanwhile, is not taken back."""
        if self._empty.get(entry.key) is entry:
            del self._empty[entry.key]
            self._entries[entry.key] = entry
            if len(self._entries) > self._entries_max:
                self._entries.popitem(last=False)

    def _usable(self, entry: _Entry) -> Credential | None:
        now = self._clock.boottime()
        if entry.rejected or now >= entry.usable_until or self._clock.wall() >= entry.wall_until:
            return None
        if now >= entry.stale_at and not entry.running and now >= entry.next_at:
            self._start(entry)
        return entry.credential

    async def _outcome(self, entry: _Entry, waits: int = 1) -> Credential | GrantFailure | Fault | None:
        """That of the running fetch, after a bounded wait; None: it goes on.

        Then the credential that a 401 was seen for is in use again: where an issuer hangs, the 401 of one caller must not stop all others.
        """
        done = entry.done
        assert done is not None
        await asyncio.wait((done,), timeout=waits * self._wait_s)  # leaves `done` alone when this request is cancelled
        if done.done():
            return done.result()
        if entry.done is done:
            entry.rejected = False
        return None

    def _start(self, entry: _Entry) -> None:
        entry.running = True
        entry.done = asyncio.get_running_loop().create_future()
        self._tasks.start(self._run_fetch(entry, entry.done), "credential fetch")

    async def _run_fetch(self, entry: _Entry, done: asyncio.Future[Credential | GrantFailure | Fault]) -> None:
        """Do one fetch; whatever happens in it, its outcome is recorded and reaches those that wait. A bug goes on to the task's owner."""
        began_at, began_wall = self._clock.boottime(), self._clock.wall()
        outcome: Credential | GrantFailure | Fault = _failure(_INTERNAL)
        try:
            async with asyncio.timeout(self._fetch_s):
                credential, usable_s = await entry.fetch()
            outcome = self._accept(entry, credential, usable_s, began_at, began_wall)
        except (GrantFailure, Fault) as failure:
            outcome = failure
        except TimeoutError:
            outcome = _failure(_TIMEOUT)
        finally:
            if isinstance(outcome, GrantFailure):  # an identity's Fault has its own backoff
                entry.failure = outcome
                entry.next_at = self._clock.boottime() + wait_s(outcome, entry.failures, self._entropy.uniform())
                entry.failures += 1
            entry.running = entry.rejected = False
            done.set_result(outcome)

    def _accept(self, entry: _Entry, credential: Credential, usable_s: float, began_at: float, began_wall: float) -> Credential:
        entry.failure, entry.failures, entry.next_at = None, 0, -math.inf
        if usable_s <= 0:
            return credential  # for the requests that wait, and not for others
        if entry.credential is not None and _same(entry.credential, credential):
            credential = entry.credential  # so that the engine sees that a 401 brought no other one
        entry.credential = credential
        entry.usable_until, entry.wall_until = began_at + usable_s, began_wall + usable_s
        entry.stale_at = began_at + usable_s * (0.7 + 0.2 * self._entropy.uniform())
        self._keep(entry)
        return credential


def _result_of(outcome: Credential | GrantFailure | Fault, before: Credential) -> str:
    if not isinstance(outcome, Credential):
        return "failed"
    return "same_token" if outcome is before else "refreshed"


def _failure(detail: str) -> GrantFailure:
    return GrantFailure(GrantFailureClass.RETRY, "issuer_unavailable", detail)


def _same(one: Credential, other: Credential) -> bool:
    return _prints(one) == _prints(other)


def _prints(credential: Credential) -> list[bytes]:
    token = () if credential.token is None else (credential.token,)
    return [fingerprint(secret) for secret in (*credential.fields, *token)]


def _again(failure: GrantFailure, left_s: float) -> GrantFailure:
    """The recorded failure for one more request, with the time that is left of its wait."""
    return GrantFailure(
        failure.failure_class,
        failure.code,
        failure.detail,
        retry_after_s=left_s,
        throttled=failure.throttled,
        issuer_error=failure.issuer_error,
    )

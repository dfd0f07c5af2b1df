"""A fetched identity that is kept current: one fetch at a time in its own task, refresh ahead of expiry, backoff, never an expired token.

Rules to keep. FRESH: use it. STALE (past its due instant): use it while a fetch runs behind it. EXPIRED: no request gets it; requests wait
for the fetch. A request that is cancelled never cancels the fetch. A reply that does not expire later is `unchanged`: the token that is
held stays, and it counts as a failure, since an agent that is cut off from its server responds OK with its old copy; another token that
lives shorter is taken only where an upstream refused the one that is held. The wall clock is read again after every fetch; timers are
monotonic; `step` and `obtain` plan again when the wall clock jumps.
"""

import asyncio
import math
from typing import Final, Protocol

from robin.identity.identity import Dependencies, describe
from robin.identity.reporter import IdentityReporter
from robin.identity.schedule import ClockJump, FirstSeen, RefreshRateLimit, backoff_s, new_endpoint_s, refresh_at
from robin.identity.source import FailureClass, RawIdentity, SourceFailure, SourceHandle
from robin.model.faults import Fault
from robin.model.identity import IdentityStatus, IdentityToken
from robin.telemetry.identity_metrics import IdentityMetrics
from robin.wire.jwt_inspection import TokenRefused, TokenRules, fingerprint, inspect_token, same_token

_TICK_S: Final = 1.0
_FAILING_TICK_S: Final = 0.25  # how often a failing endpoint is looked at: with the spread, a new one is used within a second
_SHORTEST_S: Final = 0.01
_OVERTIME_S: Final = 1.0  # how long a fetch may outlive its own deadline before it is cut off


class RefreshSettings(Protocol):
    """The part of a source's settings that refreshing reads; `settings.JwtSvidSettings` has it."""

    @property
    def audience(self) -> str:
        """The one audience to fetch for."""
        ...

    @property
    def refresh_before_s(self) -> float:
        """How long before expiry a token becomes STALE."""
        ...

    @property
    def fetch_timeout_s(self) -> float:
        """The source's own deadline for one fetch."""
        ...

    @property
    def wait_s(self) -> float:
        """The longest wait of one request for a token."""
        ...

    @property
    def stop_when_denied(self) -> bool:
        """True: a denial ends the cached token at once."""
        ...


class RefreshingIdentity:
    """Keeps the token of one source for one audience. An `identity.Identity`."""

    def __init__(
        self, handle: SourceHandle, rules: TokenRules, settings: RefreshSettings, dependencies: Dependencies, metrics: IdentityMetrics
    ) -> None:
        clock = dependencies.clock
        self._handle = handle
        self._rules = rules
        self._settings = settings
        self._clock = clock
        self._entropy = dependencies.entropy
        self._tasks = dependencies.tasks
        self._log = dependencies.log
        self._metrics = metrics
        self._reporter = IdentityReporter(dependencies, metrics)
        self._seen_endpoint_id: object = None
        self._clock_jump = ClockJump(wall=clock.wall(), monotonic=clock.monotonic())
        self._token: IdentityToken | None = None
        self._refused: IdentityToken | None = None  # by an upstream, with 401
        self._due_wall = 0.0
        self._due_at = 0.0  # monotonic: when the token becomes STALE
        self._next_at = 0.0  # monotonic: when the next fetch is due; infinity: not before a SIGHUP or a new endpoint
        self._failures = 0
        self._fault = "identity_unavailable"
        self._detail = "starting: the Workload API was not asked yet"
        self._first_seen = FirstSeen()
        self._refresh_limit = RefreshRateLimit()
        self._warned: set[str] = set()
        self._fetch: asyncio.Task[None] | None = None
        self._fetch_done: asyncio.Future[None] | None = None  # resolved at the end of each fetch
        self._loop_task: asyncio.Task[None] | None = None

    # requests

    def ready(self) -> IdentityToken | None:
        """Return the token while it is usable. Starts an overdue fetch for a STALE one (the event loop was starved)."""
        token = self._token
        if token is None or self._clock.wall() >= token.usable_until:
            return None
        self._metrics.cache_hit += 1
        now = self._clock.monotonic()
        if now >= self._due_at:
            self._metrics.served_stale += 1
            if now >= self._next_at and self._fetch is None:
                self._start_fetch()
        return token

    async def obtain(self) -> IdentityToken:
        """Wait for the running fetch, or start one that is due, for at most `wait_s`. Raises Fault."""
        self._plan_after_clock_jump()
        give_up_at = self._clock.monotonic() + self._settings.wait_s
        while True:
            token = self._usable()
            if token is not None:
                self._metrics.cache_wait += 1
                return token
            now = self._clock.monotonic()
            if self._fetch is None and now >= self._next_at:
                self._start_fetch()
            wake_at = give_up_at if self._fetch is not None else min(self._next_at, give_up_at)
            if now >= give_up_at or (self._fetch is None and self._next_at > give_up_at):
                self._metrics.cache_miss += 1
                raise self._refusal(now)
            await self._wait_for_fetch(max(wake_at - now, _SHORTEST_S))

    def rejected(self, token: IdentityToken) -> None:
        """Record that the upstream responded 401 to this token: fetch for later requests, at most once per 30 s."""
        if token is self._token:
            self._refused = token
        possible = token is self._token and self._fetch is None and not math.isinf(self._next_at)
        if possible and self._refresh_limit.permits(self._clock.monotonic()):
            self._start_fetch()

    async def renew(self, token: IdentityToken) -> IdentityToken:
        """Fetch as `rejected` does, and wait for that fetch, or for the one that runs. Raises Fault."""
        self.rejected(token)
        if token is self._token and self._fetch is not None:
            await self._wait_for_fetch(self._settings.wait_s)
        return await self.obtain()

    async def fresh(self) -> IdentityToken:
        """Fetch one for this call alone; it is judged as any other, and not kept. Raises Fault."""
        try:
            async with asyncio.timeout(self._settings.fetch_timeout_s + _OVERTIME_S):
                raw = await self._handle.source.fetch(self._settings.audience)
            return inspect_token(raw.text, self._rules, now=self._clock.wall(), issued_to=raw.issued_to)
        except SourceFailure as failure:
            raise Fault(failure.fault, failure.detail) from None
        except TimeoutError:
            raise Fault("identity_unavailable", "deadline_exceeded: the identity source did not answer") from None

    # operations

    def status(self) -> IdentityStatus:
        """Return the present state from memory."""
        return describe(
            self._metrics.source,
            self._token,
            self._clock.wall(),
            usable=self._usable() is not None,
            stale=self._clock.monotonic() >= self._due_at,
            code=self._code_now(),
        )

    async def start(self) -> None:
        """Fetch now and keep the token current; does not wait for the first reply."""
        self._next_at = self._clock.monotonic()
        self.step()
        self._loop_task = self._tasks.start(self._step_for_ever(), "identity refresh")

    async def close(self) -> None:
        """Cancel the fetch and the refresh loop, and release the connection."""
        tasks = [task for task in (self._loop_task, self._fetch) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._handle.close()

    def wake(self) -> None:
        """Fetch now, whatever was decided before (SIGHUP)."""
        self._failures = 0
        self._next_at = self._clock.monotonic()
        if self._fetch is None:
            self._start_fetch()

    def step(self) -> float:
        """Do what is due: plan again after a clock jump, detect a new endpoint, start a fetch. Returns the seconds to the next step."""
        self._plan_after_clock_jump()
        now = self._clock.monotonic()
        failing = bool(self._failures) or math.isinf(self._next_at)
        if failing:
            self._detect_new_endpoint(now)
        if self._fetch is None and now >= self._next_at:
            self._start_fetch()
        self._reporter.report_state(usable=self._usable() is not None, fault=self._code_now())
        tick_s = _FAILING_TICK_S if failing else _TICK_S
        return tick_s if self._fetch is not None else min(tick_s, max(self._next_at - now, _SHORTEST_S))

    def _plan_after_clock_jump(self) -> None:
        now, wall = self._clock.monotonic(), self._clock.wall()
        if self._clock_jump.happened(wall=wall, monotonic=now) and self._token is not None:
            self._due_at = now + (self._due_wall - wall)
            if self._failures == 0 and not math.isinf(self._next_at):
                self._next_at = self._due_at

    async def _step_for_ever(self) -> None:
        while True:
            delay_s = _TICK_S
            try:
                delay_s = self.step()
            except Exception as error:  # noqa: BLE001 - the loop must go on
                self._reporter.crashed("the identity refresh loop", error)
            await self._wait_for_fetch(delay_s)

    async def _wait_for_fetch(self, timeout_s: float) -> None:
        """Wait until the next fetch ends, or for `timeout_s`; cancelling one waiter disturbs no other."""
        if self._fetch_done is None:
            self._fetch_done = asyncio.get_running_loop().create_future()
        await asyncio.wait((self._fetch_done,), timeout=timeout_s)

    def _detect_new_endpoint(self, now: float) -> None:
        """Plan an early try when the failing endpoint was replaced, at a random moment."""
        found = self._handle.endpoint_id()
        if found is not None and found != self._seen_endpoint_id:
            self._seen_endpoint_id = found
            self._failures = 0
            self._next_at = min(self._next_at, now + new_endpoint_s(self._entropy.uniform()))

    # fetches

    def _start_fetch(self) -> None:
        self._seen_endpoint_id = self._handle.endpoint_id()
        self._fetch = self._tasks.start(self._run_fetch(), "identity fetch")

    async def _run_fetch(self) -> None:
        """Do one fetch and record its outcome; whatever happens in it, the next try is planned and the waiters are woken."""
        began_at, raw, settled = self._clock.monotonic(), None, True
        try:
            async with asyncio.timeout(self._settings.fetch_timeout_s + _OVERTIME_S):
                raw = await self._handle.source.fetch(self._settings.audience)
            self._accept(raw, began_at)
        except TokenRefused as refused:
            self._metrics.count_rejected(refused.reason)
            about = b"" if raw is None else fingerprint(raw.text)
            self._fail(SourceFailure(refused.reason, refused.detail, fault=refused.code), began_at, about=about)
        except SourceFailure as failure:
            self._fail(failure, began_at)
        except TimeoutError:
            self._fail(SourceFailure("DeadlineExceeded", "deadline_exceeded: the identity source did not answer"), began_at)
        except Exception as error:  # noqa: BLE001 - a bug in a source must not end the refreshes
            self._reporter.crashed("the identity source", error)
            self._fail(SourceFailure("internal", "internal: the identity source failed; see the log"), began_at)
        except BaseException:
            settled = False
            raise
        finally:
            self._fetch = None
            if not settled:  # cancelled, by close or by a source that cancels itself
                self._plan_after_failure(self._clock.monotonic())
            if self._fetch_done is not None:
                self._fetch_done.set_result(None)
                self._fetch_done = None

    def _accept(self, raw: RawIdentity, began_at: float) -> None:
        """Judge what was fetched, by the clock as it is now; raises TokenRefused."""
        wall, now = self._clock.wall(), self._clock.monotonic()
        held = self._token
        if held is not None and same_token(held, raw.text):
            self._keep_held(now, began_at)
            return
        seen_at = self._first_seen.when(raw.text, wall)  # a copy that a denial took away is not new when it comes back
        token = inspect_token(raw.text, self._rules, now=wall, seen_at=seen_at, issued_to=raw.issued_to)
        if raw.warning and raw.warning not in self._warned:
            self._warned.add(raw.warning)
            self._log.warning("identity_ambiguous", source=self._metrics.source, detail=raw.warning)
        assert token.expires_at is not None
        if held is not None and held is not self._refused and held.expires_at is not None and token.expires_at <= held.expires_at:
            self._keep_held(now, began_at)
            return
        self._token = token
        self._due_wall = refresh_at(
            received_at=wall,
            expires_at=token.expires_at,
            usable_until=token.usable_until,
            refresh_before_s=self._settings.refresh_before_s,
            draw=self._entropy.uniform(),
        )
        self._clock_jump = ClockJump(wall=wall, monotonic=now)
        self._next_at = self._due_at = now + (self._due_wall - wall)
        self._failures = 0
        self._fault = "identity_unavailable"
        self._reporter.renewed(token, "OK", now - began_at)

    def _keep_held(self, now: float, began_at: float) -> None:
        """Record a reply whose token does not last longer than the one that is held."""
        self._fault = "identity_unavailable"
        self._detail = "unchanged: the agent gives the token that we have; check that the agent reaches its server"
        self._reporter.unchanged("OK", now - began_at)
        self._plan_after_failure(now)

    def _fail(self, failure: SourceFailure, began_at: float, *, about: bytes = b"") -> None:
        now = self._clock.monotonic()
        self._fault, self._detail = failure.fault, failure.detail
        if failure.failure_class is FailureClass.DENIED and self._settings.stop_when_denied:
            self._token = None
        self._plan_after_failure(now)
        if failure.failure_class is FailureClass.REFUSED:
            self._next_at = math.inf
        self._reporter.failed(failure, now - began_at, about=about)
        self._reporter.report_state(usable=self._usable() is not None, fault=self._code_now())

    def _plan_after_failure(self, now: float) -> None:
        """Plan the next try; a FRESH token keeps its own plan (the fetch was a forced one)."""
        if self._usable() is not None and now < self._due_at:
            self._next_at = self._due_at
            return
        self._next_at = now + backoff_s(self._failures, self._entropy.uniform())
        self._failures += 1

    def _usable(self) -> IdentityToken | None:
        token = self._token
        return None if token is None or self._clock.wall() >= token.usable_until else token

    def _code_now(self) -> str:
        """Return why nothing can be served: the fault of the last fetch, or that the token which is held is past its time."""
        if self._token is not None and self._fault == "identity_unavailable":
            return "identity_expired"
        return self._fault

    def _refusal(self, now: float) -> Fault:
        fault = Fault(self._code_now(), self._detail)
        if fault.kind.retry_after_s is not None and self._next_at > now and not math.isinf(self._next_at):
            fault.retry_after_s = self._next_at - now
        return fault

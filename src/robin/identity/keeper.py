"""A fetched identity, kept current: one flight at a time in its own task, refresh ahead of expiry, backoff, never an expired token.

Rules to keep. FRESH: use it. STALE (past its due instant): use it, a flight runs behind. EXPIRED: no request gets it; requests join the
flight. Whoever leaves never cancels the flight. A reply that does not expire later is `unchanged`: the token we have stays, and it counts
as a failure, for an agent cut off from its server answers OK with its old copy. The wall clock is read again after every fetch; timers are
monotonic; `step` marries the two anew when the wall steps.
"""

import asyncio
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from robin.identity.bulletin import Bulletin
from robin.identity.first_seen import FirstSeen
from robin.identity.identity import describe
from robin.identity.schedule import Forced, WallStep, backoff_s, refresh_at
from robin.identity.source import IdentitySource, Outlook, RawIdentity, SourceFailure
from robin.identity.surroundings import Surroundings
from robin.model.faults import Fault
from robin.model.identity import IdentityStatus, IdentityToken
from robin.wire.jose import TokenRefused, TokenRules, fingerprint, inspect_token, same_token

_TICK_S: Final = 1.0
_LOOK_S: Final = 0.25  # how often a failing endpoint is looked at: with the spread, another one is used within a second
_SPREAD_S: Final = 0.5
_SHORTEST_S: Final = 0.01


@dataclass(frozen=True, slots=True, kw_only=True)
class KeepRules:
    """`fetch_limit_s` bounds a source that forgets its own deadline. `stop_when_denied`: a denial ends the cached token at once."""

    audience: str
    refresh_before_s: float
    wait_s: float
    fetch_limit_s: float
    stop_when_denied: bool = False


def _nothing() -> None:
    """Nothing to look at, nothing to let go of."""


class Keeper:
    """Keeps the token of one source for one audience. An `identity.Identity`.

    `landmark` says what the endpoint looks like now (None: not there, or nothing to see): another one is worth a try at once.
    `release` lets go of the source's connections.
    """

    def __init__(
        self,
        source: IdentitySource,
        token_rules: TokenRules,
        rules: KeepRules,
        room: Surroundings,
        *,
        landmark: Callable[[], object] = _nothing,
        release: Callable[[], None] = _nothing,
    ) -> None:
        self._source = source
        self._token_rules = token_rules
        self._rules = rules
        self._room = room
        self._clock = room.clock
        self._metrics = room.metrics
        self._bulletin = Bulletin(room)
        self._landmark, self._release = landmark, release
        self._seen_landmark: object = None
        self._wall_step = WallStep(wall=room.clock.wall(), monotonic=room.clock.monotonic())
        self._token: IdentityToken | None = None
        self._due_wall = 0.0
        self._due_at = 0.0  # monotonic: when the token becomes STALE
        self._next_at = 0.0  # monotonic: when the next flight is due; infinity: not before a SIGHUP or a new endpoint
        self._failures = 0
        self._fault = "identity_unavailable"
        self._detail = "starting: the Workload API was not asked yet"
        self._first_seen = FirstSeen()
        self._forced = Forced()
        self._warned: set[str] = set()
        self._flight: asyncio.Task[None] | None = None
        self._landed: asyncio.Future[None] | None = None  # resolved at the end of each flight
        self._round: asyncio.Task[None] | None = None

    # requests

    def ready(self) -> IdentityToken | None:
        """The token while it is usable; a STALE one whose flight is overdue (the loop was starved) starts it."""
        token = self._token
        if token is None or self._clock.wall() >= token.usable_until:
            return None
        self._metrics.cache_hit += 1
        now = self._clock.monotonic()
        if now >= self._due_at:
            self._metrics.served_stale += 1
            if now >= self._next_at and self._flight is None:
                self._take_off()
        return token

    async def obtain(self) -> IdentityToken:
        """Join the flight, or start one that is due, for at most ROBIN_IDENTITY_WAIT. Raises Fault."""
        give_up_at = self._clock.monotonic() + self._rules.wait_s
        while True:
            token = self._usable()
            if token is not None:
                self._metrics.cache_wait += 1
                return token
            now = self._clock.monotonic()
            if self._flight is None and now >= self._next_at:
                self._take_off()
            wake_at = give_up_at if self._flight is not None else min(self._next_at, give_up_at)
            if now >= give_up_at or (self._flight is None and self._next_at > give_up_at):
                self._metrics.cache_miss += 1
                raise self._refusal(now)
            await self._landing(max(wake_at - now, _SHORTEST_S))

    def rejected(self, token: IdentityToken) -> None:
        """The upstream answered 401 to this token: fetch for LATER requests, at most once per 30 s."""
        possible = token is self._token and self._flight is None and not math.isinf(self._next_at)
        if possible and self._forced.permits(self._clock.monotonic()):
            self._take_off()

    # operations

    def status(self) -> IdentityStatus:
        """How it stands, from what is known."""
        return describe(
            self._metrics.source,
            self._token,
            self._clock.wall(),
            usable=self._usable() is not None,
            stale=self._clock.monotonic() >= self._due_at,
            code=self._code_now(),
        )

    async def start(self) -> None:
        """Fetch now, and keep at it; does not wait for the first answer."""
        self._next_at = self._clock.monotonic()
        self.step()
        self._round = self._room.tasks.start(self._step_for_ever(), "identity keeper")

    async def close(self) -> None:
        """End the flight and the round, and let go of the connection."""
        tasks = [task for task in (self._round, self._flight) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._release()

    def wake(self) -> None:
        """SIGHUP: fetch now, whatever was decided before."""
        self._failures = 0
        self._next_at = self._clock.monotonic()
        if self._flight is None:
            self._take_off()

    def step(self) -> float:
        """What time asks for: replan after a wall step, notice a new endpoint, take off when due. Returns seconds to the next step."""
        now, wall = self._clock.monotonic(), self._clock.wall()
        if self._wall_step.happened(wall=wall, monotonic=now) and self._token is not None:
            self._due_at = now + (self._due_wall - wall)
            if self._failures == 0 and not math.isinf(self._next_at):
                self._next_at = self._due_at
        failing = bool(self._failures) or math.isinf(self._next_at)
        if failing:
            self._notice_endpoint(now)
        if self._flight is None and now >= self._next_at:
            self._take_off()
        self._bulletin.standing(usable=self._usable() is not None, fault=self._code_now())
        tick_s = _LOOK_S if failing else _TICK_S
        return tick_s if self._flight is not None else min(tick_s, max(self._next_at - now, _SHORTEST_S))

    async def _step_for_ever(self) -> None:
        while True:
            delay_s = _TICK_S
            try:
                delay_s = self.step()
            except Exception as error:  # noqa: BLE001 - the round must go on
                self._bulletin.crashed("the round of the keeper", error)
            await self._landing(delay_s)

    async def _landing(self, timeout_s: float) -> None:
        """Wait for the next flight to end, or for `timeout_s`; whoever leaves disturbs nobody."""
        if self._landed is None:
            self._landed = asyncio.get_running_loop().create_future()
        await asyncio.wait((self._landed,), timeout=timeout_s)

    def _notice_endpoint(self, now: float) -> None:
        """Another endpoint than the one that failed: try it soon, at a moment of our own (a node's sidecars see it together)."""
        seen = self._landmark()
        if seen is not None and seen != self._seen_landmark:
            self._seen_landmark = seen
            self._failures = 0
            self._next_at = min(self._next_at, now + self._room.entropy.uniform() * _SPREAD_S)

    # flights

    def _take_off(self) -> None:
        self._seen_landmark = self._landmark()
        self._flight = self._room.tasks.start(self._fly(), "identity flight")

    async def _fly(self) -> None:
        """One fetch and its outcome; whatever happens in it, the next try is planned and those who wait hear of it."""
        began_at, raw, settled = self._clock.monotonic(), None, True
        try:
            async with asyncio.timeout(self._rules.fetch_limit_s):
                raw = await self._source.fetch(self._rules.audience)
            self._accept(raw, began_at)
        except TokenRefused as refused:
            self._metrics.count_rejected(refused.reason)
            about = b"" if raw is None else fingerprint(raw.text)
            self._fail(refused.reason, refused.code, refused.detail, began_at, about=about)
        except SourceFailure as failure:
            self._fail(failure.label, failure.fault, failure.detail, began_at, outlook=failure.outlook)
        except TimeoutError:
            self._fail("DeadlineExceeded", "identity_unavailable", "deadline_exceeded: the identity source did not answer", began_at)
        except Exception as error:  # noqa: BLE001 - a bug in a source must not end the refreshes
            self._bulletin.crashed("the identity source", error)
            self._fail("internal", "identity_unavailable", "internal: the identity source failed; see the log", began_at)
        except BaseException:
            settled = False
            raise
        finally:
            self._flight = None
            if not settled:  # cancelled, by close or by something that should not have
                self._postpone(self._clock.monotonic())
            if self._landed is not None:
                self._landed.set_result(None)
                self._landed = None

    def _accept(self, raw: RawIdentity, began_at: float) -> None:
        """Judge what was fetched, by the clock as it is now; raises TokenRefused."""
        wall, now = self._clock.wall(), self._clock.monotonic()
        held = self._token
        if held is not None and same_token(held, raw.text):
            self._stay(now, began_at)
            return
        seen_at = self._first_seen.when(raw.text, wall)  # a copy that a denial took away is not new when it comes back
        token = inspect_token(raw.text, self._token_rules, now=wall, seen_at=seen_at, issued_to=raw.issued_to)
        if raw.warning and raw.warning not in self._warned:
            self._warned.add(raw.warning)
            self._room.log.warning("identity_ambiguous", source=self._metrics.source, detail=raw.warning)
        assert token.expires_at is not None
        if held is not None and held.expires_at is not None and token.expires_at <= held.expires_at:
            self._stay(now, began_at)
            return
        self._token = token
        self._due_wall = refresh_at(
            received_at=wall,
            expires_at=token.expires_at,
            refresh_before_s=self._rules.refresh_before_s,
            draw=self._room.entropy.uniform(),
        )
        self._wall_step = WallStep(wall=wall, monotonic=now)
        self._next_at = self._due_at = now + (self._due_wall - wall)
        self._failures = 0
        self._fault = "identity_unavailable"
        self._bulletin.renewed(token, "OK", now - began_at)

    def _stay(self, now: float, began_at: float) -> None:
        """The reply brings nothing that lasts longer."""
        self._fault = "identity_unavailable"
        self._detail = "unchanged: the agent gives the token that we have; check that the agent reaches its server"
        self._bulletin.unchanged("OK", now - began_at)
        self._postpone(now)

    def _fail(self, label: str, fault: str, detail: str, began_at: float, *, outlook: Outlook = Outlook.RETRY, about: bytes = b"") -> None:
        now = self._clock.monotonic()
        self._fault, self._detail = fault, detail
        if outlook is Outlook.DENIED and self._rules.stop_when_denied:
            self._token = None
        self._postpone(now)
        if outlook is Outlook.REFUSED:
            self._next_at = math.inf
        self._bulletin.failed(label, fault, detail, now - began_at, about=about)
        self._bulletin.standing(usable=self._usable() is not None, fault=self._code_now())

    def _postpone(self, now: float) -> None:
        """Plan the try after a failure; a FRESH token keeps its own plan (the flight was a forced one)."""
        if self._usable() is not None and now < self._due_at:
            self._next_at = self._due_at
            return
        self._next_at = now + backoff_s(self._failures, self._room.entropy.uniform())
        self._failures += 1

    def _usable(self) -> IdentityToken | None:
        token = self._token
        return None if token is None or self._clock.wall() >= token.usable_until else token

    def _code_now(self) -> str:
        """Why nothing can be served: what the last flight said, or that the token we hold is past its time."""
        if self._token is not None and self._fault == "identity_unavailable":
            return "identity_expired"
        return self._fault

    def _refusal(self, now: float) -> Fault:
        code = self._code_now()
        fault = Fault(code, self._detail)
        if fault.kind.retry_after_s is not None and self._next_at > now and not math.isinf(self._next_at):
            fault.retry_after_s = self._next_at - now
        return fault

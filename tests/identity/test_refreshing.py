"""The refreshing identity: a manual clock, and a source whose replies the test decides."""

import asyncio
import gc
import random
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import pytest
from tests.identity.parts import Parts

from robin.identity.refreshing import RefreshingIdentity
from robin.identity.source import FailureClass, RawIdentity, SourceFailure, SourceHandle
from robin.model.faults import Fault
from robin.model.identity import IdentityState, IdentityToken
from robin.model.secret import Secret
from robin.testing.tokens import make_token
from robin.testing.waiting import eventually
from robin.wire.jwt_inspection import TokenRefused, TokenRules

AUDIENCE = "broker.example"
SUBJECT = "spiffe://example.org/app"
UNAVAILABLE = SourceFailure("Unavailable", "unavailable: no agent; start it")
DENIED = SourceFailure("PermissionDenied", "permission_denied: no entry; create it", failure_class=FailureClass.DENIED)
REFUSED = SourceFailure("InvalidArgument", "invalid_argument: no; fix", fault="identity_refused", failure_class=FailureClass.REFUSED)
Fetch = Callable[[], Awaitable[RawIdentity]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Times:
    """The settings that refreshing reads."""

    audience: str = AUDIENCE
    refresh_before_s: float = 60
    fetch_timeout_s: float = 29
    wait_s: float = 0.2
    stop_when_denied: bool = False


class Stage:
    """A refreshing identity, its source (this object), and the clock of both. `calls` counts fetches, `at` is when they were."""

    def __init__(self, *, seed: int = 1, **times: object) -> None:
        self.parts = Parts(seed=seed)
        self.clock = self.parts.clock
        self.calls = 0
        self.at: list[float] = []
        self.reply: Fetch = self.fresh
        self.lifetime_s = 300.0
        self.endpoint: object = "first"
        self.identity = RefreshingIdentity(
            SourceHandle(source=self, endpoint_id=self.endpoint_id),
            TokenRules(audience=AUDIENCE),
            Times(**times),  # type: ignore[arg-type]
            self.parts.dependencies,
            self.parts.metrics,
        )

    # the source

    def endpoint_id(self) -> object:
        if isinstance(self.endpoint, Exception):
            raise self.endpoint
        return self.endpoint

    async def fetch(self, audience: str | None) -> RawIdentity:
        assert audience == AUDIENCE
        self.calls += 1
        self.at.append(self.clock.monotonic())
        return await self.reply()

    async def fresh(self) -> RawIdentity:
        return self.raw(self.lifetime_s)

    def raw(self, lifetime_s: float, **claims: object) -> RawIdentity:
        text = Secret(make_token(expires_at=self.clock.wall() + lifetime_s, claims=claims))
        return RawIdentity(text=text, issued_to=SUBJECT, warning="several identities; choose")

    def will(self, outcome: RawIdentity | BaseException | asyncio.Event | None) -> None:
        """Decide the replies to come: this one, this failure, a fresh one once the event is set, or (None) a fresh one at once."""

        async def reply() -> RawIdentity:
            if isinstance(outcome, BaseException):
                raise outcome.with_traceback(None)  # an instance raised again keeps its old frames
            if isinstance(outcome, asyncio.Event):
                await outcome.wait()
            return outcome if isinstance(outcome, RawIdentity) else await self.fresh()

        self.reply = reply

    # time

    @property
    def fetching(self) -> bool:
        return len(self.parts.tasks) > 0

    async def finish(self) -> None:
        """Let the running fetch end."""
        for _ in range(1000):
            if not self.fetching:
                return
            await asyncio.sleep(0)
        raise AssertionError("the fetch does not end")

    async def step(self) -> None:
        self.identity.step()
        await self.finish()

    async def pass_time(self, seconds: float) -> None:
        """Let time pass as the refresh loop does: step, finish, wait for as long as the step returned."""
        until = self.clock.monotonic() + seconds
        while self.clock.monotonic() < until:
            delay_s = self.identity.step()
            if self.fetching:
                await self.finish()
                delay_s = self.identity.step()
            self.clock.advance(min(delay_s, 1.0, until - self.clock.monotonic()))

    async def warm(self) -> IdentityToken:
        """Fetch the first token."""
        await self.step()
        return self.token()

    def token(self) -> IdentityToken:
        token = self.identity.ready()
        assert token is not None
        return token

    async def fault(self) -> Fault:
        with pytest.raises(Fault) as raised:
            await self.identity.obtain()
        return raised.value


# serving


async def test_a_token_is_kept_fresh_over_many_lifetimes_without_a_gap() -> None:
    stage = Stage()
    await stage.warm()
    for _ in range(3600):
        await stage.pass_time(1)
        assert (stage.token().expires_at or 0) - stage.clock.wall() > 50
    assert 14 <= stage.calls <= 17
    assert stage.parts.log.count("identity_ambiguous") == 1, "a warning of the source is logged once"
    assert stage.parts.metrics.served_stale == 0
    assert stage.parts.crashes == []


@pytest.mark.parametrize("lifetime_s", [300, 30])
async def test_a_refresh_that_is_set_later_than_the_validity_held_back_leaves_no_gap(lifetime_s: float) -> None:
    """With `refresh_before_s` of a millisecond the token would end, for requests, seconds before its refresh."""
    stage = Stage(refresh_before_s=0.001)
    stage.lifetime_s = lifetime_s
    await stage.warm()
    for _ in range(1200):
        await stage.pass_time(0.5)
        stage.identity.step()
        await stage.finish()
        stage.token()


async def test_a_stale_token_serves_while_its_fetch_hangs_and_never_past_its_use() -> None:
    stage = Stage(wait_s=0)
    token = await stage.warm()
    stage.will(asyncio.Event())
    stage.clock.advance(250)
    stage.identity.step()
    await eventually(lambda: stage.calls == 2, what="the fetch behind the requests")
    for _ in range(40):
        assert stage.token() is token
        stage.clock.advance(1)
        stage.identity.step()
    assert (stage.calls, stage.parts.metrics.served_stale) == (2, 40)
    stage.clock.advance(token.usable_until - stage.clock.wall() - 0.001)
    assert stage.token() is token
    stage.clock.advance(0.001)
    assert stage.identity.ready() is None
    assert (await stage.fault()).code == "identity_expired"
    assert stage.identity.status().state is IdentityState.EXPIRED
    await stage.identity.close()


async def test_a_request_starts_the_fetch_that_a_starved_loop_missed_but_not_before_the_backoff_is_over() -> None:
    stage = Stage()
    token = await stage.warm()
    stage.will(UNAVAILABLE)
    stage.clock.advance(260)  # no step ran
    assert stage.token() is token
    assert stage.fetching
    await stage.finish()
    for _ in range(100):
        assert stage.token() is token
    assert (stage.fetching, stage.calls) == (False, 2)
    stage.will(None)
    stage.clock.advance(1)
    assert stage.token() is token
    await stage.finish()
    assert stage.token() is not token


# single flight


@pytest.mark.parametrize("leaving", [[], [0], list(range(0, 1000, 2)), list(range(1000))], ids=["none", "first", "half", "all"])
async def test_a_thousand_cold_requests_make_one_call_and_those_that_leave_fail_no_other(leaving: list[int]) -> None:
    stage = Stage(wait_s=5)
    release = asyncio.Event()
    stage.will(release)
    requests = [asyncio.ensure_future(stage.identity.obtain()) for _ in range(1000)]
    await eventually(lambda: stage.calls == 1)
    for number in leaving:
        requests[number].cancel()
    await asyncio.sleep(0)
    release.set()
    outcomes = await asyncio.gather(*requests, return_exceptions=True)
    gone = set(leaving)
    assert all(isinstance(outcome, asyncio.CancelledError if number in gone else IdentityToken) for number, outcome in enumerate(outcomes))
    await stage.finish()
    assert stage.identity.ready() is not None
    assert stage.calls == 1
    assert stage.parts.metrics.cache_wait == 1000 - len(gone)


async def test_a_request_waits_no_longer_than_it_may() -> None:
    stage = Stage(wait_s=0)
    stage.will(asyncio.Event())
    assert (await stage.fault()).code == "identity_unavailable"
    assert (stage.calls, stage.parts.metrics.cache_miss) == (0, 1)
    await eventually(lambda: stage.calls == 1)
    await stage.identity.close()


async def test_a_cold_request_outlives_a_failure_whose_next_try_lies_within_its_wait() -> None:
    stage = Stage(wait_s=5)
    stage.will(UNAVAILABLE)
    request = asyncio.ensure_future(stage.identity.obtain())
    await eventually(lambda: stage.calls == 1)
    await stage.finish()
    stage.will(None)
    stage.clock.advance(0.5)
    assert isinstance(await request, IdentityToken)
    assert stage.calls == 2


async def test_a_request_is_refused_at_once_where_the_next_try_lies_beyond_its_wait() -> None:
    stage = Stage(wait_s=2)
    stage.will(UNAVAILABLE)
    await stage.pass_time(60)
    calls = stage.calls
    while stage.calls == calls:  # to the moment after a failed try
        await stage.pass_time(0.25)
    fault = await stage.fault()
    assert fault.retry_after_s is not None
    assert 2 < fault.retry_after_s <= 30
    assert stage.calls == calls + 1


# failures and their codes


async def test_an_outage_of_five_minutes_costs_at_most_thirty_calls_and_ends_by_itself() -> None:
    for seed in range(20):
        stage = Stage(seed=seed)
        stage.will(UNAVAILABLE)
        await stage.pass_time(300)
        assert 10 <= stage.calls <= 30
        stage.will(None)
        await stage.pass_time(31)
        assert stage.identity.ready() is not None
        assert set(stage.parts.metrics.refreshes) == {("error", "Unavailable"), ("renewed", "OK")}


@pytest.mark.parametrize("again_s", [600, 590])
async def test_an_agent_that_gives_nothing_newer_is_unchanged_and_asked_at_most_thirty_times_in_five_minutes(again_s: float) -> None:
    stage = Stage()
    stage.will(first := stage.raw(600))
    token = await stage.warm()
    stage.will(first if again_s == 600 else stage.raw(again_s))
    stage.clock.advance(541)
    before = stage.calls
    await stage.pass_time(1)
    assert stage.token() is token
    await stage.pass_time(300)
    assert 5 <= stage.calls - before <= 30
    assert stage.parts.metrics.refreshes[("renewed", "OK")] == 1
    assert again_s != 600 or stage.parts.metrics.refreshes[("unchanged", "OK")] == stage.calls - before
    assert (await stage.fault()).code == "identity_expired"


@pytest.mark.parametrize("again", ["sighup", "new socket"])
async def test_a_refusal_is_not_tried_again_before_a_sighup_or_a_new_socket(again: str) -> None:
    stage = Stage()
    stage.will(REFUSED)
    await stage.pass_time(600)
    stage.endpoint = None  # the socket is gone
    await stage.pass_time(60)
    assert stage.calls == 1
    fault = await stage.fault()
    assert (fault.code, fault.retry_after_s) == ("identity_refused", None)
    status = stage.identity.status()
    assert (status.state, status.reasons) == (IdentityState.REFUSED, ("identity_refused",))
    assert stage.parts.log.count("identity_misconfigured") == 1
    stage.will(None)
    if again == "sighup":
        stage.identity.wake()
        await stage.finish()
    else:
        stage.endpoint = "second"
        await stage.pass_time(2.5)
    assert stage.calls == 2
    assert stage.identity.ready() is not None


async def test_a_refusal_leaves_the_cached_token_to_its_end_and_a_401_forces_nothing() -> None:
    stage = Stage()
    token = await stage.warm()
    stage.will(REFUSED)
    stage.clock.advance(260)
    await stage.pass_time(30)
    assert stage.token() is token
    assert stage.identity.status().usable
    stage.identity.rejected(token)
    assert not stage.fetching
    stage.clock.advance(10)
    assert stage.identity.ready() is None
    assert (await stage.fault()).code == "identity_refused"
    assert stage.calls == 2


async def test_a_denial_is_tried_for_ever_and_serves_the_cached_token_to_its_end() -> None:
    stage = Stage()
    token = await stage.warm()
    stage.will(DENIED)
    stage.clock.advance(250)
    await stage.pass_time(40)
    assert stage.token() is token
    stage.clock.advance(6)
    assert stage.identity.ready() is None
    before = stage.calls
    await stage.pass_time(600)
    assert 15 <= stage.calls - before <= 45
    stage.will(None)
    await stage.pass_time(31)
    assert stage.identity.ready() is not None


async def test_with_stop_when_denied_a_denial_ends_the_token_at_once_and_the_same_copy_is_as_old_as_before() -> None:
    """Its life counts from when it was first seen: seen as new, it would be used for longer than before."""
    stage = Stage(stop_when_denied=True)
    first = stage.raw(300)
    stage.will(first)
    before = await stage.warm()
    stage.will(DENIED)
    stage.clock.advance(280)
    await stage.step()
    assert (stage.identity.ready(), stage.parts.metrics.ready) == (None, False)
    fault = await stage.fault()
    assert (fault.code, fault.detail.partition(":")[0]) == ("identity_unavailable", "permission_denied")
    stage.will(first)
    await stage.pass_time(1)
    after = stage.token()
    assert (after.seen_at, after.usable_until) == (before.seen_at, before.usable_until)


@pytest.mark.parametrize(
    "error",
    [RuntimeError("eyJ.a.b"), KeyError("x"), OSError(5, "io"), asyncio.InvalidStateError(), RecursionError(), asyncio.CancelledError()],
    ids=lambda error: type(error).__name__,
)
async def test_an_exception_in_a_source_is_followed_by_the_next_try(error: BaseException) -> None:
    stage = Stage()
    stage.will(error)
    await stage.step()
    assert stage.identity.step() > 0.01, "the next try is due at once, and would be for ever"
    await stage.pass_time(3)
    assert stage.calls >= 3
    assert stage.parts.metrics.refreshes == ({("error", "internal"): stage.calls} if isinstance(error, Exception) else {})
    assert "eyJ" not in repr(stage.parts.log.lines)
    stage.will(None)
    await stage.pass_time(8)
    assert stage.identity.ready() is not None
    assert stage.parts.crashes == []


async def test_a_source_that_forgets_its_deadline_is_cut_off() -> None:
    stage = Stage(fetch_timeout_s=-0.99)
    stage.will(asyncio.Event())
    stage.identity.step()
    await eventually(lambda: stage.parts.metrics.refreshes == {("error", "DeadlineExceeded"): 1}, what="the end of the fetch")


@pytest.mark.parametrize(
    ("claims", "code", "reason", "retry"),
    [
        ({"aud": "other"}, "audience_mismatch", "bad_aud", False),
        ({"nbf": 1_780_000_000 + 3600}, "identity_not_yet_valid", "not_yet_valid", True),
        ({"exp": 1_779_999_000}, "identity_expired", "expired", True),
        ({"sub": "spiffe://example.org/other"}, "identity_malformed", "bad_sub", True),
        (None, "identity_unavailable", "empty_reply", True),
    ],
)
async def test_a_reply_that_fails_a_check_is_discarded_and_counted_by_reason(
    claims: dict[str, object] | None, code: str, reason: str, retry: bool
) -> None:
    stage = Stage()
    stage.will(TokenRefused(code, reason, "nothing came", "fix") if claims is None else stage.raw(300, **claims))
    await stage.pass_time(3)
    fault = await stage.fault()
    assert fault.code == code
    assert (fault.retry_after_s is not None) is retry
    assert stage.parts.metrics.rejected == {reason: stage.calls}
    assert stage.identity.status().reasons == (code,)
    assert stage.parts.log.count("identity_misconfigured") == (1 if code == "audience_mismatch" else 0)


# clocks


@pytest.mark.parametrize("jump_s", [600, -600, 3550], ids=["forth", "back", "suspend"])
async def test_a_jump_of_the_wall_clock_moves_the_refresh_with_it(jump_s: float) -> None:
    stage = Stage()
    stage.lifetime_s = 3600
    token = await stage.warm()
    stage.clock.step_wall(jump_s)  # the monotonic clock stands still in a suspend
    due_in_s = max(0, (token.expires_at or 0) - 57 - stage.clock.wall())
    await stage.pass_time(max(0.01, due_in_s - 5))
    assert stage.calls == (1 if due_in_s else 2)
    await stage.pass_time(8)
    assert stage.calls == 2


async def test_a_request_after_a_suspend_waits_for_a_fetch_and_not_for_the_next_step() -> None:
    stage = Stage()
    token = await stage.warm()
    stage.clock.step_wall(4000)  # no step ran
    assert stage.identity.ready() is None
    assert await stage.identity.obtain() is not token


async def test_a_fetch_is_judged_by_the_clock_at_its_end() -> None:
    stage = Stage()
    raw = stage.raw(20)

    async def slowly() -> RawIdentity:
        stage.clock.advance(30)
        return raw

    stage.reply = slowly
    await stage.step()
    assert stage.identity.ready() is None
    assert stage.parts.metrics.rejected == {"expired": 1}


# forced fetches


async def test_responses_401_force_one_fetch_in_thirty_seconds_and_the_same_token_keeps_its_plan() -> None:
    stage = Stage()
    token = await stage.warm()
    stage.will(RawIdentity(text=token.value, issued_to=SUBJECT))
    for _ in range(1000):
        stage.identity.rejected(token)
        await asyncio.sleep(0)
        stage.clock.advance(0.01)
    await stage.finish()
    assert stage.calls == 2
    stage.clock.advance(21)
    stage.identity.rejected(token)
    await stage.finish()
    assert stage.calls == 3
    assert stage.identity.status().state is IdentityState.FRESH
    stage.will(None)
    await stage.pass_time(190)
    assert stage.calls == 3
    await stage.pass_time(30)
    assert stage.calls == 4
    stage.identity.rejected(token)  # it was replaced
    assert not stage.fetching


async def test_a_token_that_an_upstream_refused_gives_way_to_another_one_that_lives_shorter() -> None:
    """An authority that rotated its key may issue shorter lives; the token that is held would fail until its end."""
    stage = Stage()
    stage.lifetime_s = 3600
    token = await stage.warm()
    stage.lifetime_s = 300
    stage.identity.wake()
    await stage.finish()
    assert stage.token() is token, "no upstream refused it"
    stage.identity.rejected(token)
    await stage.finish()
    shorter = stage.token()
    assert shorter is not token
    stage.lifetime_s = 200
    stage.identity.wake()
    await stage.finish()
    assert stage.token() is shorter


# endpoints


@pytest.mark.parametrize("seed", range(10))
async def test_a_replaced_socket_is_tried_within_a_second_whatever_the_backoff(seed: int) -> None:
    """K1: an identity that appears is served within 1 s, also when the loop has looked just before."""
    stage = Stage(seed=seed)
    stage.will(UNAVAILABLE)
    await stage.pass_time(200)
    delay_s = stage.identity.step()
    stage.will(None)
    stage.endpoint = "second"
    stage.clock.advance(delay_s)
    await stage.pass_time(0.9 - delay_s)
    assert stage.identity.ready() is not None


async def test_a_new_socket_whose_agent_is_still_starting_is_tried_from_the_first_backoff_again() -> None:
    stage = Stage()
    stage.will(UNAVAILABLE)
    await stage.pass_time(200)
    before = stage.calls
    stage.endpoint = "second"
    await stage.pass_time(6)
    assert 4 <= stage.calls - before <= 6


async def test_a_thousand_identities_do_not_return_as_one_after_an_outage() -> None:
    stages = [Stage(seed=seed) for seed in range(1000)]
    for stage in stages:
        stage.will(UNAVAILABLE)
    for _ in range(4):
        await asyncio.gather(*(stage.pass_time(30) for stage in stages))
    ended_at = stages[0].clock.monotonic()
    for stage in stages:
        stage.lifetime_s = 90
        stage.will(None)
    await asyncio.gather(*(stage.pass_time(180) for stage in stages))
    seconds = [0] * 180
    for at in (at - ended_at for stage in stages for at in stage.at):
        if 0 <= at < 180:
            seconds[int(at)] += 1
    assert max(seconds) <= 3 * sum(seconds) / len(seconds)
    assert all(stage.identity.ready() is not None for stage in stages)


# life


async def test_start_fetches_at_once_and_close_leaves_nothing() -> None:
    stage = Stage()
    stage.will(asyncio.Event())
    await stage.identity.start()
    await eventually(lambda: stage.calls == 1)
    assert len(stage.parts.tasks) == 2
    await stage.identity.close()
    assert len(stage.parts.tasks) == 0
    assert stage.parts.crashes == []


async def test_a_refresh_loop_whose_step_fails_goes_on() -> None:
    stage = Stage()
    stage.will(UNAVAILABLE)
    await stage.identity.start()
    await eventually(lambda: stage.calls == 1)
    stage.endpoint = OSError("broken")
    await eventually(lambda: "OSError" in stage.parts.log.codes("identity_crashed"), what="a failed step")
    stage.endpoint = "second"
    stage.will(None)
    stage.clock.advance(5)
    await eventually(lambda: stage.identity.ready() is not None, what="a token after a failed step")
    await stage.identity.close()


async def test_readiness_is_reported_when_the_token_comes_and_when_it_ends() -> None:
    stage = Stage()
    for _ in range(1000):
        assert stage.identity.status().state is IdentityState.MISSING
    assert (stage.calls, stage.fetching) == (0, False), "a status fetches"
    await stage.warm()
    assert (stage.parts.changes, stage.parts.metrics.ready) == (1, True)
    stage.will(UNAVAILABLE)
    await stage.pass_time(294)
    assert stage.identity.status().state is IdentityState.STALE
    await stage.pass_time(3)
    assert (stage.parts.changes, stage.parts.metrics.ready) == (2, False)
    assert stage.identity.status().reasons == ("identity_expired",)


@pytest.mark.parametrize("refreshes", [5_000, pytest.param(100_000, marks=pytest.mark.slow)])
async def test_refreshes_without_number_leave_nothing_behind(refreshes: int) -> None:
    stage, before = Stage(), 0
    for number in range(-1000, refreshes):
        if number == 0:
            gc.collect()
            before = sys.getallocatedblocks()
        stage.will(UNAVAILABLE if number % 10 == 5 else None)
        stage.clock.advance(250)
        await stage.step()
        stage.at.clear()
        stage.parts.log.lines.clear()
    gc.collect()
    assert sys.getallocatedblocks() - before < refreshes / 10
    assert stage.calls >= refreshes


async def test_nothing_that_is_past_its_use_is_ever_served_whatever_happens() -> None:
    """The refresh model (Q4): random outcomes, delays and clock jumps; whatever is served has more life left than its least."""
    for seed in range(60):
        draws, stage = random.Random(seed), Stage(wait_s=0, seed=seed)

        async def behave(stage: Stage = stage, draws: random.Random = draws) -> RawIdentity:
            choice = draws.random()
            stage.clock.advance(draws.choice([0, 0.1, 2, 9]))
            if choice < 0.35:
                raise draws.choice([UNAVAILABLE, DENIED, RuntimeError("x")])
            return stage.raw(-draws.random() * 50 if choice < 0.45 else draws.choice([1, 4, 12, 40, 300]))

        stage.reply = behave
        for _ in range(400):
            stage.identity.step()
            if draws.random() < 0.8:
                await stage.finish()
            if draws.random() < 0.02:
                stage.clock.step_wall(draws.choice([-600, -30, 30, 600]))
            token = stage.identity.ready()
            if token is not None:
                assert token.expires_at is not None
                assert token.expires_at - stage.clock.wall() > min(5.0, (token.expires_at - token.seen_at) / 10)
            stage.clock.advance(draws.choice([0.01, 0.5, 1, 7]))
        await stage.finish()


async def test_a_fresh_token_is_fetched_for_one_call_and_not_kept() -> None:
    stage = Stage(fetch_timeout_s=0.01)
    held = await stage.identity.obtain()
    first, second = await stage.identity.fresh(), await stage.identity.fresh()
    assert (stage.calls, stage.identity.ready() is held, len({id(one) for one in (held, first, second)})) == (3, True, 3)
    stage.will(UNAVAILABLE)
    with pytest.raises(Fault, match="no agent"):
        await stage.identity.fresh()
    stage.will(stage.raw(-60))
    with pytest.raises(TokenRefused):
        await stage.identity.fresh()
    assert stage.identity.ready() is held

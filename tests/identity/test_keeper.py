"""The flight and the keeping: manual clock, a source under the hand of the test."""

import asyncio
import gc
import math
import os
import random
from collections.abc import Awaitable, Callable

import pytest
from tests.identity.room import Room

from robin.identity.keeper import Keeper, KeepRules
from robin.identity.source import Outlook, RawIdentity, SourceFailure
from robin.model.faults import Fault
from robin.model.identity import IdentityState, IdentityToken
from robin.model.secret import Secret
from robin.testing.tokens import make_token
from robin.testing.waiting import eventually
from robin.wire.jose import TokenRefused, TokenRules

AUDIENCE = "broker.example"
Fetch = Callable[[], Awaitable[RawIdentity]]


class ScriptedSource:
    """A platform whose next answers the test decides; `calls` counts fetches, `at` says when they were."""

    def __init__(self, room: Room) -> None:
        self.room = room
        self.calls = 0
        self.at: list[float] = []
        self.answer: Fetch = self.give_fresh
        self.lifetime_s = 300.0

    async def fetch(self, audience: str | None) -> RawIdentity:
        assert audience == AUDIENCE
        self.calls += 1
        self.at.append(self.room.clock.monotonic())
        return await self.answer()

    async def give_fresh(self) -> RawIdentity:
        return self.raw(self.room.clock.wall() + self.lifetime_s)

    def raw(self, expires_at: float) -> RawIdentity:
        return RawIdentity(text=Secret(make_token(expires_at=expires_at)), issued_to="spiffe://example.org/app")

    def always(self, raw: RawIdentity) -> Fetch:
        async def answer() -> RawIdentity:
            return raw

        return answer

    def failing(self, error: Exception) -> Fetch:
        async def answer() -> RawIdentity:
            raise error.with_traceback(None)  # an instance raised again keeps its old frames

        return answer

    def hanging(self, release: asyncio.Event | None = None) -> Fetch:
        async def answer() -> RawIdentity:
            await (release or asyncio.Event()).wait()
            return await self.give_fresh()

        return answer


UNAVAILABLE = SourceFailure("Unavailable", "unavailable: no agent; start it")
DENIED = SourceFailure("PermissionDenied", "permission_denied: no entry; create it", outlook=Outlook.DENIED)
REFUSED = SourceFailure("InvalidArgument", "invalid_argument: no; fix", fault="identity_refused", outlook=Outlook.REFUSED)


class Stage:
    """A keeper, its source, and the clock that both live by."""

    def __init__(self, *, wait_s: float = 0.2, stop_when_denied: bool = False, seed: int = 1) -> None:
        self.room = Room(seed=seed)
        self.clock = self.room.clock
        self.source = ScriptedSource(self.room)
        self.landmark: object = "first"
        rules = KeepRules(audience=AUDIENCE, refresh_before_s=60, wait_s=wait_s, fetch_limit_s=30, stop_when_denied=stop_when_denied)
        self.keeper = Keeper(self.source, TokenRules(audience=AUDIENCE), rules, self.room.surroundings(), landmark=lambda: self.landmark)

    async def land(self) -> None:
        """Let the running flight come to its end."""
        while (flight := self.keeper._flight) is not None:
            await asyncio.wait((flight,), timeout=10)
            assert flight.done(), "the flight does not land"

    async def pass_time(self, seconds: float, *, tick_s: float = 1.0) -> None:
        """Time passes as it does for the keeper's round: step, land, wait for what it asked."""
        until = self.clock.monotonic() + seconds
        while self.clock.monotonic() < until:
            delay_s = self.keeper.step()
            if self.keeper._flight is not None:
                await self.land()
                delay_s = self.keeper.step()
            self.clock.advance(min(delay_s, tick_s, until - self.clock.monotonic()))

    async def warm(self) -> IdentityToken:
        """The first token, in place."""
        self.keeper.step()
        await self.land()
        token = self.keeper.ready()
        assert token is not None
        return token

    def left_s(self) -> float:
        token = self.keeper.ready()
        assert token is not None
        assert token.expires_at is not None
        return token.expires_at - self.clock.wall()


async def fault_of(stage: Stage) -> Fault:
    with pytest.raises(Fault) as raised:
        await stage.keeper.obtain()
    return raised.value


# serving


async def test_a_token_is_kept_fresh_over_many_lifetimes_without_a_gap() -> None:
    stage = Stage()
    await stage.warm()
    for _ in range(3600):
        await stage.pass_time(1)
        assert stage.keeper.ready() is not None
        assert stage.left_s() > 50
    assert 14 <= stage.source.calls <= 17
    assert stage.room.metrics.served_stale == 0
    assert stage.room.crashes == []


async def test_a_stale_token_serves_while_its_flight_hangs_and_never_past_its_use() -> None:
    stage = Stage(wait_s=0)
    token = await stage.warm()
    stage.source.answer = stage.source.hanging()
    stage.clock.advance(250)
    stage.keeper.step()
    await eventually(lambda: stage.source.calls == 2, what="the flight behind the requests")
    for _ in range(40):
        assert stage.keeper.ready() is token
        stage.clock.advance(1)
        stage.keeper.step()
    assert stage.source.calls == 2
    assert stage.room.metrics.served_stale == 40
    stage.clock.advance(token.usable_until - stage.clock.wall() - 0.001)
    assert stage.keeper.ready() is token
    stage.clock.advance(0.001)
    assert stage.keeper.ready() is None
    fault = await fault_of(stage)
    assert fault.code == "identity_expired"
    assert stage.keeper.status().state is IdentityState.EXPIRED
    await stage.keeper.close()


async def test_a_starved_loop_is_made_up_for_by_the_request_that_finds_it() -> None:
    stage = Stage()
    token = await stage.warm()
    stage.clock.advance(260)  # no step ran
    assert stage.keeper.ready() is token
    assert stage.keeper._flight is not None
    assert stage.keeper.ready() is token
    await stage.land()
    assert stage.source.calls == 2
    assert stage.keeper.ready() is not token


async def test_a_starved_loop_does_not_start_flights_before_the_backoff_is_over() -> None:
    stage = Stage()
    await stage.warm()
    stage.source.answer = stage.source.failing(UNAVAILABLE)
    stage.clock.advance(260)
    assert stage.keeper.ready() is not None
    await stage.land()
    for _ in range(100):
        assert stage.keeper.ready() is not None
    await asyncio.sleep(0)
    assert stage.source.calls == 2


# single flight


async def test_a_thousand_cold_requests_make_one_call_and_all_are_served() -> None:
    stage = Stage(wait_s=5)
    release = asyncio.Event()
    stage.source.answer = stage.source.hanging(release)
    requests = [asyncio.ensure_future(stage.keeper.obtain()) for _ in range(1000)]
    await eventually(lambda: stage.source.calls == 1)
    release.set()
    tokens = await asyncio.gather(*requests)
    assert len({id(token) for token in tokens}) == 1
    assert stage.source.calls == 1
    assert stage.room.metrics.cache_wait == 1000


@pytest.mark.parametrize("leaving", [[0], list(range(0, 1000, 2)), list(range(999))], ids=["first", "half", "all but one"])
async def test_requests_that_leave_fail_none_of_the_others(leaving: list[int]) -> None:
    stage = Stage(wait_s=5)
    release = asyncio.Event()
    stage.source.answer = stage.source.hanging(release)
    requests = [asyncio.ensure_future(stage.keeper.obtain()) for _ in range(1000)]
    await eventually(lambda: stage.source.calls == 1)
    for number in leaving:
        requests[number].cancel()
    await asyncio.sleep(0)
    release.set()
    outcomes = await asyncio.gather(*requests, return_exceptions=True)
    gone = set(leaving)
    assert all(isinstance(outcome, asyncio.CancelledError if number in gone else IdentityToken) for number, outcome in enumerate(outcomes))
    assert stage.source.calls == 1


async def test_a_flight_that_everybody_left_still_lands() -> None:
    stage = Stage(wait_s=5)
    release = asyncio.Event()
    stage.source.answer = stage.source.hanging(release)
    request = asyncio.ensure_future(stage.keeper.obtain())
    await eventually(lambda: stage.source.calls == 1)
    request.cancel()
    release.set()
    await stage.land()
    assert stage.keeper.ready() is not None
    assert len(stage.room.tasks) == 0


async def test_a_request_waits_no_longer_than_it_may() -> None:
    stage = Stage(wait_s=0)
    stage.source.answer = stage.source.hanging()
    fault = await fault_of(stage)
    assert (fault.code, stage.source.calls, stage.room.metrics.cache_miss) == ("identity_unavailable", 0, 1)
    await eventually(lambda: stage.source.calls == 1)
    await stage.keeper.close()


async def test_a_cold_request_outlives_a_failure_whose_next_try_lies_within_its_wait() -> None:
    stage = Stage(wait_s=5)
    failures = 0

    async def fail_once() -> RawIdentity:
        nonlocal failures
        failures += 1
        stage.clock.advance(0.01)
        if failures == 1:
            raise UNAVAILABLE
        return await stage.source.give_fresh()

    stage.source.answer = fail_once
    request = asyncio.ensure_future(stage.keeper.obtain())
    await eventually(lambda: failures == 1)
    await stage.land()
    stage.clock.advance(0.5)
    assert isinstance(await request, IdentityToken)
    assert stage.source.calls == 2


async def test_a_request_is_refused_at_once_where_the_next_try_lies_beyond_its_wait() -> None:
    stage = Stage(wait_s=2)
    stage.source.answer = stage.source.failing(UNAVAILABLE)
    await stage.pass_time(60)
    calls = stage.source.calls
    await eventually(lambda: stage.keeper.step() >= 0 and stage.keeper._flight is None)
    if stage.keeper._next_at - stage.clock.monotonic() <= 2:
        await stage.pass_time(5)
    fault = await fault_of(stage)
    assert fault.retry_after_s is not None
    assert 2 < fault.retry_after_s <= 30
    assert stage.source.calls <= calls + 1


# failures and their codes


async def test_an_outage_of_five_minutes_costs_at_most_thirty_calls_and_ends_by_itself() -> None:
    for seed in range(20):
        stage = Stage(seed=seed)
        stage.source.answer = stage.source.failing(UNAVAILABLE)
        await stage.pass_time(300)
        assert 10 <= stage.source.calls <= 30
        stage.source.answer = stage.source.give_fresh
        await stage.pass_time(31)
        assert stage.keeper.ready() is not None
        assert set(stage.room.metrics.refreshes) == {("error", "Unavailable"), ("renewed", "OK")}


async def test_an_agent_that_repeats_itself_is_unchanged_and_asked_at_most_thirty_times_in_five_minutes() -> None:
    stage = Stage()
    same = stage.source.raw(stage.clock.wall() + 600)
    stage.source.answer = stage.source.always(same)
    await stage.warm()
    stage.clock.advance(541)
    before = stage.source.calls
    await stage.pass_time(300)
    assert 5 <= stage.source.calls - before <= 30
    assert stage.room.metrics.refreshes[("unchanged", "OK")] == stage.source.calls - before
    assert (await fault_of(stage)).code == "identity_expired"


async def test_a_reply_that_expires_earlier_does_not_replace_the_token() -> None:
    stage = Stage()
    token = await stage.warm()
    stage.source.answer = stage.source.always(stage.source.raw(stage.clock.wall() + 290))
    stage.clock.advance(260)
    stage.keeper.step()
    await stage.land()
    assert stage.keeper.ready() is token
    assert stage.room.metrics.refreshes[("unchanged", "OK")] == 1


async def test_a_refusal_is_not_tried_again_before_a_sighup() -> None:
    stage = Stage()
    stage.source.answer = stage.source.failing(REFUSED)
    await stage.pass_time(600)
    assert stage.source.calls == 1
    fault = await fault_of(stage)
    assert (fault.code, fault.retry_after_s) == ("identity_refused", None)
    status = stage.keeper.status()
    assert (status.state, status.reasons) == (IdentityState.REFUSED, ("identity_refused",))
    assert stage.room.log.count("identity_misconfigured") == 1
    stage.source.answer = stage.source.give_fresh
    stage.keeper.wake()
    await stage.land()
    assert stage.keeper.ready() is not None


async def test_a_refusal_is_tried_again_at_a_new_socket() -> None:
    stage = Stage()
    stage.source.answer = stage.source.failing(REFUSED)
    await stage.pass_time(60)
    stage.landmark = None  # the socket is gone
    await stage.pass_time(60)
    assert stage.source.calls == 1
    stage.source.answer = stage.source.give_fresh
    stage.landmark = "second"
    await stage.pass_time(2.5)
    assert stage.source.calls == 2
    assert stage.keeper.ready() is not None


async def test_a_refusal_leaves_the_cached_token_to_its_end() -> None:
    stage = Stage()
    token = await stage.warm()
    stage.source.answer = stage.source.failing(REFUSED)
    stage.clock.advance(260)
    await stage.pass_time(30)
    assert stage.keeper.ready() is token
    assert stage.keeper.status().usable
    stage.clock.advance(10)
    assert stage.keeper.ready() is None
    assert (await fault_of(stage)).code == "identity_refused"
    assert stage.source.calls == 2


async def test_a_denial_is_tried_for_ever_and_serves_the_cached_token_to_its_end() -> None:
    stage = Stage()
    token = await stage.warm()
    stage.source.answer = stage.source.failing(DENIED)
    stage.clock.advance(250)
    await stage.pass_time(40)
    assert stage.keeper.ready() is token
    stage.clock.advance(6)
    assert stage.keeper.ready() is None
    before = stage.source.calls
    await stage.pass_time(600)
    assert 15 <= stage.source.calls - before <= 45
    stage.source.answer = stage.source.give_fresh
    await stage.pass_time(31)
    assert stage.keeper.ready() is not None


async def test_a_denial_ends_the_cached_token_at_once_where_redaction_is_strict() -> None:
    stage = Stage(stop_when_denied=True)
    await stage.warm()
    stage.source.answer = stage.source.failing(DENIED)
    stage.clock.advance(250)
    stage.keeper.step()
    await stage.land()
    assert stage.keeper.ready() is None
    assert not stage.room.metrics.ready
    fault = await fault_of(stage)
    assert fault.code == "identity_unavailable"
    assert fault.detail.startswith("permission_denied:")


async def test_the_copy_that_a_denial_took_away_is_as_old_as_before_when_it_is_given_again() -> None:
    """Its life counts from when it was first seen: seen as new, it would be used for longer than before."""
    stage = Stage(stop_when_denied=True)
    first = stage.source.raw(stage.room.clock.wall() + 300)
    stage.source.answer = stage.source.always(first)
    await stage.warm()
    before = stage.keeper.ready()
    assert before is not None
    stage.source.answer = stage.source.failing(DENIED)
    stage.clock.advance(280)
    stage.keeper.step()
    await stage.land()
    assert stage.keeper.ready() is None
    stage.source.answer = stage.source.always(first)
    await stage.pass_time(1)
    after = stage.keeper.ready()
    assert after is not None
    assert (after.seen_at, after.usable_until) == (before.seen_at, before.usable_until)


@pytest.mark.parametrize("error", [RuntimeError("eyJ.a.b"), KeyError("x"), OSError(5, "io"), asyncio.InvalidStateError(), RecursionError()])
async def test_an_exception_in_a_source_is_followed_by_the_next_try(error: Exception) -> None:
    stage = Stage()
    stage.source.answer = stage.source.failing(error)
    await stage.pass_time(3)
    assert stage.source.calls >= 3
    assert stage.room.metrics.refreshes == {("error", "internal"): stage.source.calls}
    assert "eyJ" not in repr(stage.room.log.lines)
    stage.source.answer = stage.source.give_fresh
    await stage.pass_time(8)
    assert stage.keeper.ready() is not None
    assert stage.room.crashes == []


async def test_a_source_that_cancels_itself_is_followed_by_the_next_try() -> None:
    stage = Stage()

    async def cancel() -> RawIdentity:
        raise asyncio.CancelledError

    stage.source.answer = cancel
    stage.keeper.step()
    await stage.land()
    assert stage.keeper._next_at > stage.clock.monotonic(), "the next try is due at once, and would be for ever"
    await stage.pass_time(3)
    assert stage.source.calls >= 3
    stage.source.answer = stage.source.give_fresh
    await stage.pass_time(8)
    assert stage.keeper.ready() is not None


async def test_a_source_that_forgets_its_deadline_is_cut_off() -> None:
    stage = Stage()
    stage.keeper._rules = KeepRules(audience=AUDIENCE, refresh_before_s=60, wait_s=0.2, fetch_limit_s=0.01)
    stage.source.answer = stage.source.hanging()
    stage.keeper.step()
    await stage.land()
    assert stage.room.metrics.refreshes == {("error", "DeadlineExceeded"): 1}


@pytest.mark.parametrize(
    ("claims", "code", "reason", "retry"),
    [
        ({"aud": "other"}, "audience_mismatch", "bad_aud", False),
        ({"nbf": 1_780_000_000 + 3600}, "identity_not_yet_valid", "not_yet_valid", True),
        ({"exp": 1_779_999_000}, "identity_expired", "expired", True),
        ({"sub": "spiffe://example.org/other"}, "identity_malformed", "bad_sub", True),
    ],
)
async def test_a_reply_that_fails_a_check_is_discarded_and_counted_by_reason(
    claims: dict[str, object], code: str, reason: str, retry: bool
) -> None:
    stage = Stage()
    bad = RawIdentity(text=Secret(make_token(expires_at=stage.clock.wall() + 300, claims=claims)), issued_to="spiffe://example.org/app")
    stage.source.answer = stage.source.always(bad)
    await stage.pass_time(3)
    fault = await fault_of(stage)
    assert fault.code == code
    assert (fault.retry_after_s is not None) is retry
    assert stage.room.metrics.rejected == {reason: stage.source.calls}
    assert stage.keeper.status().reasons == (code,)
    assert stage.room.log.count("identity_misconfigured") == (1 if code == "audience_mismatch" else 0)


async def test_a_discarded_reply_of_the_source_is_counted_by_reason() -> None:
    stage = Stage()
    stage.source.answer = stage.source.failing(TokenRefused("identity_unavailable", "empty_reply", "nothing came", "fix"))
    await stage.pass_time(0.1)
    assert stage.room.metrics.rejected == {"empty_reply": 1}


async def test_a_warning_of_the_source_is_told_once() -> None:
    stage = Stage()

    async def give() -> RawIdentity:
        raw = await stage.source.give_fresh()
        return RawIdentity(text=raw.text, issued_to=raw.issued_to, warning="several identities; choose")

    stage.source.answer = give
    await stage.pass_time(900)
    assert stage.source.calls > 2
    assert stage.room.log.count("identity_ambiguous") == 1


# clocks


@pytest.mark.parametrize("step_s", [600, -600])
async def test_a_wall_step_is_planned_for_within_a_second(step_s: float) -> None:
    stage = Stage()
    stage.source.lifetime_s = 3600
    token = await stage.warm()
    assert token.expires_at is not None
    stage.clock.step_wall(step_s)
    stage.keeper.step()
    due_in_s = stage.keeper._next_at - stage.clock.monotonic()
    assert due_in_s == pytest.approx(token.expires_at - 57 - stage.clock.wall(), abs=4)
    await stage.pass_time(due_in_s + 2)
    assert stage.source.calls == 2


async def test_a_wall_step_past_expiry_ends_the_token_at_once_and_fetches() -> None:
    stage = Stage()
    await stage.warm()
    stage.clock.step_wall(600)
    assert stage.keeper.ready() is None
    stage.keeper.step()
    await stage.land()
    assert stage.source.calls == 2
    assert stage.keeper.ready() is not None


async def test_a_suspend_is_a_wall_step() -> None:
    stage = Stage()
    stage.source.lifetime_s = 3600
    await stage.warm()
    stage.clock.step_wall(3550)  # the monotonic clock stands still in a suspend
    stage.keeper.step()
    assert stage.keeper._flight is not None
    await stage.land()
    assert stage.left_s() > 3500


async def test_a_fetch_is_judged_by_the_clock_at_its_end() -> None:
    stage = Stage()
    text = make_token(expires_at=stage.clock.wall() + 20)

    async def slowly() -> RawIdentity:
        stage.clock.advance(30)
        return RawIdentity(text=Secret(text), issued_to="spiffe://example.org/app")

    stage.source.answer = slowly
    stage.keeper.step()
    await stage.land()
    assert stage.keeper.ready() is None
    assert stage.room.metrics.rejected == {"expired": 1}


async def test_no_expired_token_leaves_while_slow_fetches_fail_across_its_end() -> None:
    stage = Stage(wait_s=0)
    stage.source.lifetime_s = 20
    token = await stage.warm()

    async def slowly_fail() -> RawIdentity:
        stage.clock.advance(3)
        raise UNAVAILABLE

    stage.source.answer = slowly_fail
    while stage.clock.wall() < token.usable_until + 30:
        stage.keeper.step()
        found = stage.keeper.ready()
        assert (found is token) is (stage.clock.wall() < token.usable_until)
        await stage.land()
        stage.clock.advance(0.25)


# forced fetches


async def test_answers_401_force_one_fetch_in_thirty_seconds() -> None:
    stage = Stage()
    token = await stage.warm()
    stage.source.answer = stage.source.always(stage.source.raw(token.expires_at or 0))
    for _ in range(1000):
        stage.keeper.rejected(token)
        await asyncio.sleep(0)
        stage.clock.advance(0.01)
    await stage.land()
    assert stage.source.calls == 2
    stage.clock.advance(21)
    stage.keeper.rejected(token)
    await stage.land()
    assert stage.source.calls == 3


async def test_a_forced_fetch_that_finds_the_same_token_keeps_the_plan() -> None:
    stage = Stage()
    token = await stage.warm()
    planned_at = stage.keeper._next_at
    stage.source.answer = stage.source.always(stage.source.raw(token.expires_at or 0))
    stage.keeper.rejected(token)
    await stage.land()
    assert stage.keeper._next_at == planned_at
    assert stage.keeper.status().state is IdentityState.FRESH


async def test_a_401_forces_nothing_from_a_platform_that_refused(stage_of_refusal: Stage) -> None:
    token = stage_of_refusal.keeper.ready()
    assert token is not None
    stage_of_refusal.keeper.rejected(token)
    assert stage_of_refusal.keeper._flight is None


@pytest.fixture
async def stage_of_refusal() -> Stage:
    """A STALE token, and a platform that refused to renew it."""
    stage = Stage()
    await stage.warm()
    stage.source.answer = stage.source.failing(REFUSED)
    stage.clock.advance(260)
    await stage.pass_time(1)
    assert stage.source.calls == 2
    return stage


async def test_a_401_for_a_token_that_was_replaced_forces_nothing() -> None:
    stage = Stage()
    token = await stage.warm()
    await stage.pass_time(260)
    assert stage.source.calls == 2
    stage.keeper.rejected(token)
    assert stage.keeper._flight is None


# endpoints


@pytest.mark.parametrize("seed", range(10))
async def test_a_replaced_socket_is_tried_within_a_second_whatever_the_backoff(seed: int) -> None:
    """K1: an identity that appears is served within 1 s, also when the round has looked just before."""
    stage = Stage(seed=seed)
    stage.source.answer = stage.source.failing(UNAVAILABLE)
    await stage.pass_time(200)
    delay_s = stage.keeper.step()
    stage.source.answer = stage.source.give_fresh
    stage.landmark = "second"
    stage.clock.advance(delay_s)
    await stage.pass_time(0.9 - delay_s)
    assert stage.keeper.ready() is not None


async def test_a_new_socket_whose_agent_is_still_starting_is_tried_from_the_first_backoff_again() -> None:
    stage = Stage()
    stage.source.answer = stage.source.failing(UNAVAILABLE)
    await stage.pass_time(200)
    before = stage.source.calls
    stage.landmark = "second"
    await stage.pass_time(6)
    assert 4 <= stage.source.calls - before <= 6


async def test_a_thousand_keepers_do_not_return_as_one_after_an_outage() -> None:
    stages = [Stage(seed=seed) for seed in range(1000)]
    for stage in stages:
        stage.source.answer = stage.source.failing(UNAVAILABLE)
    for _ in range(4):
        await asyncio.gather(*(stage.pass_time(30) for stage in stages))
    ended_at = stages[0].clock.monotonic()
    for stage in stages:
        stage.source.lifetime_s = 90
        stage.source.answer = stage.source.give_fresh
    await asyncio.gather(*(stage.pass_time(180, tick_s=1.0) for stage in stages))
    seconds = [0] * 180
    for stage in stages:
        for at in stage.source.at:
            if 0 <= at - ended_at < 180:
                seconds[int(at - ended_at)] += 1
    mean = sum(seconds) / len(seconds)
    assert max(seconds) <= 3 * mean
    assert all(stage.keeper.ready() is not None for stage in stages)


# life


async def test_start_fetches_at_once_and_close_leaves_nothing() -> None:
    stage = Stage()
    stage.source.answer = stage.source.hanging()
    await stage.keeper.start()
    await eventually(lambda: stage.source.calls == 1)
    assert len(stage.room.tasks) == 2
    await stage.keeper.close()
    assert len(stage.room.tasks) == 0
    assert stage.room.crashes == []


async def test_a_round_that_fails_goes_on() -> None:
    stage = Stage()
    fails = 0

    def landmark() -> object:
        nonlocal fails
        fails += 1
        if fails == 1:
            raise OSError("gone mad")
        return "there"

    stage.keeper._landmark = landmark
    stage.keeper._next_at = stage.clock.monotonic()
    stage.keeper._round = stage.room.tasks.start(stage.keeper._step_for_ever(), "round")
    await eventually(lambda: stage.keeper.ready() is not None, what="a token after the first round failed")
    assert stage.room.log.codes("identity_crashed") == ["OSError"]
    await stage.keeper.close()


async def test_readiness_is_told_when_the_token_comes_and_when_it_ends() -> None:
    stage = Stage()
    assert stage.keeper.status().state is IdentityState.MISSING
    await stage.warm()
    assert (stage.room.changes, stage.room.metrics.ready) == (1, True)
    stage.source.answer = stage.source.failing(UNAVAILABLE)
    await stage.pass_time(294)
    assert stage.keeper.status().state is IdentityState.STALE
    await stage.pass_time(3)
    assert (stage.room.changes, stage.room.metrics.ready) == (2, False)
    assert stage.keeper.status().reasons == ("identity_expired",)


async def test_a_status_never_fetches() -> None:
    stage = Stage()
    for _ in range(10_000):
        stage.keeper.status()
    await asyncio.sleep(0)
    assert stage.source.calls == 0
    assert not math.isinf(stage.keeper._next_at)


@pytest.mark.parametrize("refreshes", [10_000, pytest.param(100_000, marks=pytest.mark.slow)])
async def test_refreshes_without_number_leave_nothing_behind(refreshes: int) -> None:
    stage = Stage()
    stage.source.at = []

    async def refresh() -> None:
        stage.clock.advance(250)
        stage.keeper.step()
        await stage.land()
        stage.source.at.clear()

    for _ in range(1000):
        await refresh()
    gc.collect()
    before = (resident_kib(), len(gc.get_objects()))
    for number in range(refreshes):
        stage.source.answer = stage.source.failing(UNAVAILABLE) if number % 10 == 5 else stage.source.give_fresh
        if number % 1000 == 0:
            stage.room.log.lines.clear()
        await refresh()
    stage.room.log.lines.clear()
    gc.collect()
    assert len(gc.get_objects()) - before[1] < 200
    assert resident_kib() - before[0] < 2048
    assert stage.source.calls >= refreshes


def resident_kib() -> int:
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGESIZE") // 1024


async def test_nothing_that_is_past_its_use_is_ever_served_whatever_happens() -> None:
    """The refresh model (Q4): random outcomes, delays and clock steps; whatever is served has more left than its least."""
    for seed in range(60):
        draws = random.Random(seed)
        stage = Stage(wait_s=0, seed=seed)

        async def behave() -> RawIdentity:
            choice = draws.random()  # noqa: B023 - the loop's own
            stage.clock.advance(draws.choice([0, 0.1, 2, 9]))  # noqa: B023 - the loop's own
            if choice < 0.35:
                raise draws.choice([UNAVAILABLE, DENIED, RuntimeError("x")])  # noqa: B023 - the loop's own
            if choice < 0.45:
                return stage.source.raw(stage.clock.wall() - draws.random() * 50)  # noqa: B023 - the loop's own
            return stage.source.raw(stage.clock.wall() + draws.choice([1, 4, 12, 40, 300]))  # noqa: B023 - the loop's own

        stage.source.answer = behave
        for _ in range(400):
            stage.keeper.step()
            if draws.random() < 0.8:
                await stage.land()
            if draws.random() < 0.02:
                stage.clock.step_wall(draws.choice([-600, -30, 30, 600]))
            token = stage.keeper.ready()
            if token is not None:
                assert token.expires_at is not None
                least_s = min(5.0, (token.expires_at - token.seen_at) / 10)
                assert token.expires_at - stage.clock.wall() > least_s
            stage.clock.advance(draws.choice([0.01, 0.5, 1, 7]))
        await stage.land()

"""The credential cache: single flight, refresh ahead, negative cache, 401, bounds; whatever kind of grant stands behind it."""

import asyncio
import math
import random
from collections.abc import Hashable
from itertools import pairwise

import pytest
from tests.identity.parts import Parts

from robin.grants.cache import CredentialCache, wait_s
from robin.grants.grant import GrantFailure, GrantFailureClass, usable_s
from robin.model.credential import Credential
from robin.model.faults import Fault
from robin.model.secret import Secret
from robin.testing.waiting import eventually

RETRY = GrantFailure(GrantFailureClass.RETRY, "issuer_unavailable", "connect: no issuer; start it")
REFUSED = GrantFailure(GrantFailureClass.FIX_CONFIGURATION, "grant_refused", "invalid_client: no; fix")


class Stage:
    """A cache, its clock, and an issuer whose outcomes the test decides; `calls` counts fetches."""

    def __init__(self, *, seed: int = 1, **options: object) -> None:
        self.parts = Parts(seed=seed)
        options.setdefault("entropy", self.parts.dependencies.entropy)
        self.clock = self.parts.clock
        self.calls = 0
        self.usable_s = 270.0
        self.token: bytes | None = None  # None: another one with each call
        self.failure: Exception | None = None
        self.gate = asyncio.Event()
        self.gate.set()
        self.cache = CredentialCache(
            clock=self.clock,
            tasks=self.parts.tasks,
            **options,  # type: ignore[arg-type]
        )

    async def fetch(self) -> tuple[Credential, float]:
        self.calls += 1
        token = self.token or b"token-%d" % self.calls
        await self.gate.wait()
        if self.failure is not None:
            raise self.failure.with_traceback(None)
        return Credential(fields=(Secret(token),), note="test", identity=None), self.usable_s

    async def obtain(self, key: Hashable = "a") -> Credential:
        return await self.cache.obtain(key, self.fetch)

    async def finish(self) -> None:
        await eventually(lambda: len(self.parts.tasks) == 0, every_s=0, what="the end of the fetch")

    async def failing(self, key: Hashable = "a") -> GrantFailure:
        with pytest.raises(GrantFailure) as raised:
            await self.obtain(key)
        return raised.value


# lifetimes


@pytest.mark.parametrize(
    ("expires_in_s", "cap_s", "usable"),
    [(300, None, 270), (10, None, 9), (7200, None, 3570), (None, None, 270), (300, 60, 60), (300, 600, 270), (300, 0, 0), (0, None, 0)],
)
def test_the_usable_time_is_the_lifetime_less_the_margin(expires_in_s: float | None, cap_s: float | None, usable: float) -> None:
    assert (usable_s(expires_in_s) if cap_s is None else usable_s(expires_in_s, cap_s=cap_s)) == usable


@pytest.mark.parametrize("expires_in_s", [-1.0, -math.inf, math.nan])
def test_a_lifetime_that_is_none_makes_no_credential_usable(expires_in_s: float) -> None:
    assert usable_s(expires_in_s) == 0


async def test_a_credential_is_used_until_its_usable_time_is_over_and_then_fetched_again() -> None:
    stage = Stage()
    first = await stage.obtain()
    stage.clock.advance(188)
    assert stage.cache.ready("a") is first
    stage.clock.advance(82)
    assert stage.cache.ready("a") is None
    assert await stage.obtain() is not first
    assert stage.calls == 2


async def test_a_wall_clock_past_the_expiry_ends_a_credential() -> None:
    stage = Stage()
    first = await stage.obtain()
    stage.clock.step_wall(270)  # the machine slept: the monotonic clock stood still
    assert stage.cache.ready("a") is None
    assert await stage.obtain() is not first


async def test_the_life_counts_from_before_the_call() -> None:
    stage = Stage()
    stage.gate.clear()
    request = asyncio.ensure_future(stage.obtain())
    await eventually(lambda: stage.calls == 1)
    stage.clock.advance(270)
    stage.gate.set()
    assert await request is not None
    stage.clock.step_wall(-1000)
    assert stage.cache.ready("a") is None


async def test_a_credential_that_must_not_be_cached_serves_the_waiting_requests_only() -> None:
    stage = Stage()
    stage.usable_s = 0
    stage.gate.clear()
    requests = [asyncio.ensure_future(stage.obtain()) for _ in range(10)]
    await eventually(lambda: stage.calls == 1)
    stage.gate.set()
    assert len({id(credential) for credential in await asyncio.gather(*requests)}) == 1
    assert stage.cache.ready("a") is None
    await stage.obtain()
    assert stage.calls == 2


# single flight


@pytest.mark.parametrize("leaving", [[], [0], list(range(0, 100, 2)), list(range(99))], ids=["none", "first", "half", "all but one"])
async def test_a_hundred_requests_make_one_call_and_those_that_leave_fail_no_other(leaving: list[int]) -> None:
    stage = Stage()
    stage.gate.clear()
    requests = [asyncio.ensure_future(stage.obtain()) for _ in range(100)]
    await eventually(lambda: stage.calls == 1)
    for number in leaving:
        requests[number].cancel()
    await asyncio.sleep(0)
    stage.gate.set()
    outcomes = await asyncio.gather(*requests, return_exceptions=True)
    assert [number for number, outcome in enumerate(outcomes) if not isinstance(outcome, Credential)] == leaving
    assert stage.calls == 1


async def test_a_fetch_whose_requests_have_all_left_still_fills_the_cache() -> None:
    stage = Stage()
    stage.gate.clear()
    request = asyncio.ensure_future(stage.obtain())
    await eventually(lambda: stage.calls == 1)
    request.cancel()
    stage.gate.set()
    await stage.finish()
    assert stage.cache.ready("a") is not None


async def test_a_request_that_waited_too_long_leaves_the_fetch_running() -> None:
    stage = Stage(wait_s=0.01)
    stage.gate.clear()
    assert (await stage.failing()).detail.startswith("timeout:")
    stage.gate.set()
    await stage.finish()
    assert stage.cache.ready("a") is not None
    assert stage.calls == 1


async def test_a_fetch_that_hangs_is_cut_off_and_counts_as_a_failure() -> None:
    stage = Stage(fetch_s=0.01)
    stage.gate.clear()
    failure = await stage.failing()
    assert (failure.code, failure.detail.partition(":")[0]) == ("issuer_unavailable", "timeout")
    await stage.failing()
    assert stage.calls == 1


async def test_two_keys_are_fetched_apart() -> None:
    stage = Stage()
    first, second = await asyncio.gather(stage.obtain("a"), stage.obtain("b"))
    assert first is not second
    assert stage.calls == 2


# refresh ahead


@pytest.mark.parametrize("seed", range(20))
async def test_a_stale_credential_serves_while_one_fetch_runs_behind_it(seed: int) -> None:
    stage = Stage(seed=seed)
    first = await stage.obtain()
    stage.clock.advance(188)
    assert stage.cache.ready("a") is first
    assert len(stage.parts.tasks) == 0, "refreshed before 70 % of the usable time"
    stage.gate.clear()
    stage.clock.advance(56)
    for _ in range(10):
        assert stage.cache.ready("a") is first
    await eventually(lambda: stage.calls == 2, what="a refresh after 90 % of the usable time")
    stage.gate.set()
    await stage.finish()
    second = stage.cache.ready("a")
    assert second is not None
    assert second is not first
    assert stage.calls == 2


class Draws:
    """Chance that always draws the same."""

    def __init__(self, draw: float) -> None:
        self.draw = draw

    def uniform(self) -> float:
        return self.draw


@pytest.mark.parametrize(("usable_s", "earliest_s", "latest_s"), [(270, 189, 243), (9, 6.3, 8.1), (3570, 2499, 3213), (60, 42, 54)])
async def test_g37_a_refresh_starts_between_70_and_90_percent_of_the_usable_time(
    usable_s: float, earliest_s: float, latest_s: float
) -> None:
    for draw in (0.0, 0.5, 1.0 - 2**-53):
        stage = Stage(entropy=Draws(draw))
        stage.usable_s = usable_s
        await stage.obtain()
        stage.clock.advance(earliest_s + (latest_s - earliest_s) * draw - 0.1)
        stage.cache.ready("a")
        assert len(stage.parts.tasks) == 0
        stage.clock.advance(0.2)
        stage.cache.ready("a")
        await stage.finish()
        assert stage.calls == 2


async def test_g41_the_refreshes_of_500_keys_are_spread_over_15_percent_of_the_usable_time() -> None:
    stage = Stage()
    for key in range(500):
        await stage.obtain(key)
        stage.clock.advance(1 / 500)
    began_at: list[int] = []
    for second in range(0, 249, 3):
        before = stage.calls
        for key in range(500):
            stage.cache.ready(key)
        await stage.finish()
        began_at += [second] * (stage.calls - before)
        stage.clock.advance(3)
    assert len(began_at) == 500
    assert began_at[475] - began_at[25] >= 0.15 * 270
    assert max(began_at.count(second) for second in set(began_at)) < 75, "they come at once"


@pytest.mark.parametrize("step_s", [-600, 0, 600])
@pytest.mark.parametrize("suspended_s", [0, 268])
async def test_g41_neither_a_step_of_the_wall_clock_nor_a_suspend_makes_a_token_outlive_its_time(step_s: int, suspended_s: int) -> None:
    stage = Stage()
    first = await stage.obtain()
    stage.gate.clear()
    stage.clock.step_wall(step_s)
    stage.clock.suspend(suspended_s)
    stage.clock.advance(270 - suspended_s - 1)
    assert (stage.cache.ready("a") is first) is (step_s <= 0)
    stage.clock.advance(1)
    assert stage.cache.ready("a") is None
    stage.gate.set()
    assert await stage.obtain() is not first


async def test_a_failed_refresh_leaves_the_valid_credential_in_use_and_waits_before_the_next() -> None:
    stage = Stage()
    first = await stage.obtain()
    stage.failure = RETRY
    stage.clock.advance(243)
    for _ in range(100):
        assert stage.cache.ready("a") is first
        await stage.finish()
    assert stage.calls == 2
    for _ in range(26):
        stage.clock.advance(1)
        assert stage.cache.ready("a") is first
        await stage.finish()
    assert 4 <= stage.calls <= 8
    stage.clock.advance(1)
    assert stage.cache.ready("a") is None


async def test_an_idle_key_is_not_refreshed() -> None:
    stage = Stage()
    await stage.obtain()
    stage.clock.advance(250)
    await asyncio.sleep(0)
    assert (stage.calls, len(stage.parts.tasks)) == (1, 0)


# negative cache


@pytest.mark.parametrize(
    ("failure", "waits"),
    [
        (RETRY, [(0.5, 1), (1, 2), (2, 4), (4, 8), (8, 16), (16, 32), (30, 60), (30, 60)]),
        (GrantFailure(GrantFailureClass.RETRY, "x", "x", throttled=True), [(2.5, 5), (5, 10), (10, 20), (20, 40), (30, 60)]),
        (GrantFailure(GrantFailureClass.REAUTHORIZE, "x", "x"), [(54, 66), (108, 132), (216, 264), (432, 528), (540, 660)]),
        (REFUSED, [(27, 33), (54, 66), (108, 132), (216, 264), (432, 528), (540, 660)]),
        (GrantFailure(GrantFailureClass.INVESTIGATE, "x", "x"), [(27, 33), (54, 66)]),
        (GrantFailure(GrantFailureClass.RETRY, "x", "x", retry_after_s=120), [(120, 120), (120, 120)]),
        (GrantFailure(GrantFailureClass.RETRY, "x", "x", retry_after_s=1e9), [(300, 300)]),
        (GrantFailure(GrantFailureClass.RETRY, "x", "x", retry_after_s=0), [(0.5, 1)]),
    ],
)
def test_waits_after_failures_double_within_their_bounds(failure: GrantFailure, waits: list[tuple[float, float]]) -> None:
    draws = random.Random(3)
    for failures, (least, most) in enumerate(waits):
        drawn = [wait_s(failure, failures, draws.random()) for _ in range(200)]
        assert least <= min(drawn) <= max(drawn) <= most
    assert wait_s(failure, 10_000, 0.5) <= 600


async def test_during_a_wait_no_call_is_made_and_the_failure_comes_at_once_with_the_time_that_is_left() -> None:
    stage = Stage()
    stage.failure = REFUSED
    assert (await stage.failing()).code == "grant_refused"
    for _ in range(20):
        failure = await stage.failing()
        assert (failure.code, failure.detail) == ("grant_refused", REFUSED.detail)
        assert failure.retry_after_s is not None
        assert 0 < failure.retry_after_s <= 33
        stage.clock.advance(1)
    assert stage.calls == 1
    stage.failure = None
    stage.clock.advance(20)
    await stage.obtain()
    assert stage.calls == 2


async def test_a_success_clears_the_count_of_failures() -> None:
    stage = Stage()
    for _ in range(2):
        stage.failure = RETRY
        for _ in range(5):
            await stage.failing()
            stage.clock.advance(60)
        stage.failure = None
        await stage.obtain()
        stage.clock.advance(270)
    stage.failure = RETRY
    failure = await stage.failing()
    assert failure.retry_after_s is not None
    assert failure.retry_after_s <= 1


async def test_one_key_fails_alone() -> None:
    stage = Stage()
    stage.failure = REFUSED
    await stage.failing("a")
    stage.failure = None
    assert await stage.obtain("b") is not None


async def test_a_fault_of_the_identity_passes_through_and_is_not_remembered() -> None:
    stage = Stage()
    stage.failure = Fault("identity_expired", "expired: no; fix", retry_after_s=3)
    with pytest.raises(Fault) as raised:
        await stage.obtain()
    assert (raised.value.code, raised.value.retry_after_s) == ("identity_expired", 3)
    stage.failure = None
    assert await stage.obtain() is not None


async def test_a_bug_in_a_grant_reaches_the_owner_of_the_task_and_the_requests_get_a_failure() -> None:
    stage = Stage()
    stage.failure = RuntimeError("eyJ.a.b")
    failure = await stage.failing()
    assert (failure.code, failure.detail.partition(":")[0]) == ("issuer_unavailable", "internal")
    assert "eyJ" not in failure.detail
    await stage.finish()
    assert [type(error) for _, error in stage.parts.crashes] == [RuntimeError]
    stage.failure = None
    stage.clock.advance(1)
    assert await stage.obtain() is not None


# 401


async def test_a_401_forces_one_fetch_that_later_requests_wait_for() -> None:
    stage = Stage()
    first = await stage.obtain()
    stage.gate.clear()
    stage.cache.rejected("a", first)
    assert stage.cache.ready("a") is None
    later = asyncio.ensure_future(stage.obtain())
    await eventually(lambda: stage.calls == 2)
    stage.gate.set()
    assert await later is not first
    stage.cache.rejected("a", first)  # it was replaced already
    assert len(stage.parts.tasks) == 0


@pytest.mark.parametrize("outcome", ["the same token", "a failure"])
async def test_a_forced_fetch_that_brings_no_other_credential_leaves_the_one_in_use(outcome: str) -> None:
    stage = Stage()
    stage.token = b"constant"
    first = await stage.obtain()
    stage.failure = RETRY if outcome == "a failure" else None
    stage.cache.rejected("a", first)
    assert await stage.obtain() is first
    assert stage.calls == 2
    assert stage.cache.ready("a") is first


async def test_a_forced_fetch_that_hangs_does_not_take_a_valid_credential_from_the_others() -> None:
    stage = Stage(wait_s=0.01)
    first = await stage.obtain()
    stage.gate.clear()
    stage.cache.rejected("a", first)
    assert await stage.obtain() is first
    assert stage.cache.ready("a") is first, "the next one does not wait again"
    stage.gate.set()
    await stage.finish()
    assert stage.cache.ready("a") not in (None, first)


async def test_401s_force_at_most_one_fetch_per_interval_and_the_interval_doubles() -> None:
    stage = Stage(forced_every_s=60)
    stage.usable_s = 1e6
    forced = []
    credential = await stage.obtain()
    for second in range(3600):
        before = stage.calls
        stage.cache.rejected("a", credential)
        if len(stage.parts.tasks):
            credential = await stage.obtain()
        if stage.calls > before:
            forced.append(second)
        stage.clock.advance(1)
    gaps = [after - before for before, after in pairwise(forced)]
    assert forced[0] == 0
    assert gaps[:4] == [60, 120, 240, 480]
    assert set(gaps[4:]) == {600}
    stage.clock.advance(3600)
    stage.cache.rejected("a", credential)
    credential = await stage.obtain()
    stage.clock.advance(60)
    stage.cache.rejected("a", credential)
    assert len(stage.parts.tasks) == 1, "after a long time without 401 the interval is the first one again"
    await stage.finish()


async def test_a_401_during_the_wait_after_a_failure_makes_no_call() -> None:
    stage = Stage()
    first = await stage.obtain()
    stage.failure = REFUSED
    stage.clock.advance(243)
    stage.cache.ready("a")
    await stage.finish()
    stage.cache.rejected("a", first)
    assert (stage.calls, len(stage.parts.tasks)) == (2, 0)


# bounds and life


async def test_the_least_recently_used_entry_gives_way() -> None:
    stage = Stage(entries_max=3)
    for key in "abc":
        await stage.obtain(key)
    assert stage.cache.ready("a") is not None
    await stage.obtain("d")
    assert len(stage.cache) == 3
    assert [stage.cache.ready(key) is not None for key in "abcd"] == [True, False, True, True]


@pytest.mark.parametrize("outcome", ["fail", "wait", "may not be kept"])
async def test_the_tokens_in_use_stay_while_200_other_keys_bring_none(outcome: str) -> None:
    stage = Stage(entries_max=50)
    others = [f"of another caller {number}" for number in range(50)]
    tokens = [await stage.obtain(key) for key in others]
    stage.failure = REFUSED if outcome == "fail" else None
    stage.usable_s = 0 if outcome == "may not be kept" else 270
    if outcome == "wait":
        stage.gate.clear()
    requests = [asyncio.ensure_future(stage.obtain(f"subject {number}")) for number in range(200)]
    await eventually(lambda: stage.calls == 250)
    if outcome != "wait":
        await asyncio.wait(requests)
    assert [stage.cache.ready(key) for key in others] == tokens
    assert (len(stage.cache), len(stage.cache._empty)) == (50, 50)  # each has its bound
    for request in requests:
        request.cancel()
    stage.gate.set()
    await stage.finish()


async def test_failures_give_way_before_a_fetch_that_runs_and_it_is_still_one() -> None:
    stage = Stage(entries_max=3)
    stage.gate.clear()
    first = asyncio.ensure_future(stage.obtain("a"))
    await eventually(lambda: stage.calls == 1)
    waiting, stage.gate = stage.gate, asyncio.Event()
    stage.gate.set()
    stage.failure = REFUSED
    for number in range(20):
        await stage.failing(number)
    assert (await stage.failing(19)).code == "grant_refused"
    assert stage.calls == 21
    second = asyncio.ensure_future(stage.obtain("a"))
    await asyncio.sleep(0)
    stage.failure = None
    waiting.set()
    assert await first is await second is stage.cache.ready("a")
    assert stage.calls == 21


async def test_an_entry_that_gives_way_during_its_fetch_still_serves_its_requests() -> None:
    stage = Stage(entries_max=1)
    stage.gate.clear()
    requests = [asyncio.ensure_future(stage.obtain(key)) for key in "abc"]
    await eventually(lambda: stage.calls == 3)
    stage.gate.set()
    assert all(await asyncio.gather(*requests))
    assert len(stage.cache) == 1


async def test_a_reload_drops_what_it_made_unreachable() -> None:
    stage = Stage()
    for key in "abc":
        await stage.obtain(key)
    stage.cache.retain(lambda key: key == "b")
    assert [stage.cache.ready(key) is not None for key in "abc"] == [False, True, False]


async def test_closing_ends_a_fetch_and_its_requests() -> None:
    stage = Stage()
    stage.gate.clear()
    request = asyncio.ensure_future(stage.failing())
    await eventually(lambda: stage.calls == 1)
    await stage.parts.tasks.close()
    assert (await request).detail.startswith("internal:")
    assert stage.parts.crashes == []


@pytest.mark.parametrize("turns", range(8))
async def test_a_request_cancelled_at_any_turn_leaves_no_task_and_disturbs_no_other(turns: int) -> None:
    stage = Stage()
    leaving, staying = asyncio.ensure_future(stage.obtain()), asyncio.ensure_future(stage.obtain())
    for _ in range(turns):
        await asyncio.sleep(0)
    leaving.cancel()
    await asyncio.gather(leaving, return_exceptions=True)
    assert await staying is stage.cache.ready("a")
    await stage.finish()
    assert stage.calls == 1

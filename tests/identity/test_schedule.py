"""When to refresh and when to try again: the table of the spec, a thousand draws each (N3)."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from robin.identity.schedule import ClockJump, RefreshRateLimit, backoff_s
from robin.identity.schedule import refresh_at as refresh_usable_at

RECEIVED_AT = 1_780_000_000.0


def refresh_at(*, expires_at: float, refresh_before_s: float, draw: float) -> float:
    return refresh_usable_at(
        received_at=RECEIVED_AT, expires_at=expires_at, usable_until=expires_at, refresh_before_s=refresh_before_s, draw=draw
    )


@pytest.mark.parametrize(
    ("lifetime_s", "least", "most"),
    [(10, 5, 5.5), (30, 15, 16.5), (90, 45, 49.5), (300, 240, 246), (3600, 3540, 3546), (86400, 86340, 86346)],
)
def test_due_times_lie_in_the_ranges_of_the_spec(lifetime_s: float, least: float, most: float) -> None:
    draws = random.Random(7)
    dues = [refresh_at(expires_at=RECEIVED_AT + lifetime_s, refresh_before_s=60, draw=draws.random()) - RECEIVED_AT for _ in range(1000)]
    assert least <= min(dues) < max(dues) <= most
    spread = most - least
    assert min(dues) < least + 0.05 * spread
    assert max(dues) > most - 0.05 * spread


@pytest.mark.parametrize("lifetime_s", [-100, 0, 0.5, 1, 1.8])
def test_a_refresh_is_never_due_within_a_second(lifetime_s: float) -> None:
    assert refresh_at(expires_at=RECEIVED_AT + lifetime_s, refresh_before_s=60, draw=0.99) == RECEIVED_AT + 1


@pytest.mark.parametrize("draw", [0, 0.5, 0.999])
def test_a_refresh_is_due_before_the_token_is_not_usable_any_more(draw: float) -> None:
    end = RECEIVED_AT + 3600
    due = refresh_usable_at(received_at=RECEIVED_AT, expires_at=end, usable_until=end - 300, refresh_before_s=60, draw=draw)
    assert end - 300 / 0.9 <= due <= end - 300


@given(st.floats(2.5, 1e7), st.floats(0.001, 1e5), st.floats(0, 1, exclude_max=True))
def test_a_refresh_is_due_in_the_second_half_of_a_life_and_before_its_end(lifetime_s: float, before_s: float, draw: float) -> None:
    due = refresh_at(expires_at=RECEIVED_AT + lifetime_s, refresh_before_s=before_s, draw=draw) - RECEIVED_AT
    assert due >= min(1.0, lifetime_s / 2)
    assert lifetime_s / 2 - 1e-3 <= due <= lifetime_s


def test_backoff_doubles_from_half_a_second_to_half_a_minute() -> None:
    assert [backoff_s(failures, 0) for failures in range(9)] == [0.25, 0.5, 1, 2, 4, 8, 15, 15, 15]
    assert [backoff_s(failures, 0.5) for failures in (0, 5, 6, 10**9)] == [0.375, 12, 22.5, 22.5]
    assert backoff_s(50, 0.999999) < 30


def test_a_wall_step_is_told_once_and_a_slow_clock_is_none() -> None:
    step = ClockJump(wall=1000, monotonic=10)
    assert not step.happened(wall=1100, monotonic=110)
    assert not step.happened(wall=1101.9, monotonic=110)
    assert step.happened(wall=1102.5, monotonic=110)
    assert not step.happened(wall=1103.5, monotonic=111)
    assert step.happened(wall=500, monotonic=112)
    assert not step.happened(wall=501, monotonic=113)


def test_a_look_is_forced_at_once_and_then_once_in_thirty_seconds() -> None:
    forced = RefreshRateLimit()
    assert [second for second in range(95) if forced.permits(float(second))] == [0, 30, 60, 90]

"""The plan: a soak takes about as long as it was asked to, always with a warm-up, and its phases say what may fail in them."""

import pytest
from tests.soak.ledger import Result
from tests.soak.phases import CYCLE, DRAIN, REST_S, START_AND_DRAIN_S, UNITS, Mischief, times

STRICT = ("calm", "reload", "rest")


@pytest.mark.parametrize("minutes", [2.0, 5.0, 10.0, 20.0, 60.0])
def test_a_soak_takes_about_as_long_as_it_was_asked_to(minutes: float) -> None:
    chosen = times(minutes * 60)
    takes_s = START_AND_DRAIN_S + chosen.cycles * (UNITS * chosen.unit_s + REST_S)
    assert abs(takes_s - minutes * 60) <= UNITS * chosen.unit_s
    assert chosen.cycles >= 4


def test_the_shortest_soak_still_has_a_warm_up() -> None:
    assert times(1.0).cycles == 2


@pytest.mark.parametrize("phase", [phase for phase in CYCLE if phase.name in STRICT], ids=lambda phase: phase.name)
def test_calm_and_reload_excuse_nothing(phase) -> None:  # type: ignore[no-untyped-def]
    assert phase.mischief == Mischief()
    assert not phase.codes | phase.unrepeatable | phase.ends


def test_no_phase_excuses_a_wrong_answer_or_a_hang() -> None:
    for phase in (*CYCLE, DRAIN):
        assert not phase.ends & {Result.WRONG, Result.HUNG, Result.SHORT}


def test_only_the_drain_excuses_a_connection_without_an_answer() -> None:
    assert [phase.name for phase in (*CYCLE, DRAIN) if phase.ends & {Result.UNANSWERED, Result.SHUT}] == ["drain"]

"""ManualClock: both hands move together, and only the wall hand can be set."""

import pytest

from robin.testing.manual_clock import ManualClock


def test_it_stands_still_and_advances_both_hands():
    clock = ManualClock(wall=100.0, monotonic=5.0)
    assert (clock.wall(), clock.monotonic()) == (100.0, 5.0)
    clock.advance(2.5)
    assert (clock.wall(), clock.monotonic()) == (102.5, 7.5)


def test_setting_the_wall_clock_leaves_monotonic_time_alone():
    clock = ManualClock(wall=100.0, monotonic=5.0)
    clock.step_wall(-600)
    assert (clock.wall(), clock.monotonic()) == (-500.0, 5.0)


def test_monotonic_time_never_goes_back():
    with pytest.raises(ValueError, match="step_wall"):
        ManualClock().advance(-1)

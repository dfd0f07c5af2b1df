"""Bounds are inclusive, what lies above them is counted too, and nothing is cumulated before a scrape."""

from robin.telemetry.histogram import CONNECT_S, EXCHANGE_S, Histogram


def test_a_value_on_a_bound_counts_below_it_and_one_above_all_bounds_counts_last():
    histogram = Histogram((0.1, 1.0))
    for value in (0.0, 0.1, 0.1000001, 1.0, 1.5, 900.0):
        histogram.observe(value)
    assert histogram.counts == [2, 2, 2]
    assert histogram.total == 0.0 + 0.1 + 0.1000001 + 1.0 + 1.5 + 900.0


def test_the_bounds_in_use_ascend():
    for bounds in (EXCHANGE_S, CONNECT_S):
        assert list(bounds) == sorted(set(bounds))

"""Timestamps are RFC 3339, in UTC, cut to milliseconds."""

from robin.telemetry.timestamp import TimestampFormatter


def test_a_timestamp_is_utc_with_milliseconds():
    assert TimestampFormatter().text(1_780_000_000.1239) == "2026-05-28T20:26:40.123Z"


def test_a_later_and_an_earlier_moment_are_each_written_anew():
    stamp = TimestampFormatter()
    assert stamp.text(1_780_000_000.0) == "2026-05-28T20:26:40.000Z"
    assert stamp.text(1_780_000_000.0005) == "2026-05-28T20:26:40.000Z"
    assert stamp.text(1_780_000_061.5) == "2026-05-28T20:27:41.500Z"
    assert stamp.text(0.0) == "1970-01-01T00:00:00.000Z"

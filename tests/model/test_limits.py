"""The defaults of the engine's limits are those of the settings table, and each is bounded."""

from dataclasses import fields
from math import isfinite

from robin.model.limits import Deadlines, Limits


def test_the_sizes_and_counts_default_to_the_tables() -> None:
    limits = Limits()
    assert (limits.head_bytes, limits.target_bytes, limits.fields) == (64 * 1024, 16 * 1024, 100)
    assert (limits.connections, limits.upstream_connections) == (1024, 256)


def test_the_deadlines_default_to_the_tables() -> None:
    deadlines = Deadlines()
    assert (deadlines.head_s, deadlines.keepalive_s, deadlines.stream_idle_s) == (10, 75, 3600)
    assert (deadlines.response_s, deadlines.connect_s, deadlines.queue_s) == (900, 10, 5)
    assert deadlines.upstream_idle_s is None


def test_nothing_is_without_a_limit_by_default() -> None:
    for part in (Limits(), Deadlines()):
        for field in fields(part):
            value = getattr(part, field.name)
            streamed = field.name == "body_bytes"  # 0 is no limit: a body that is not held takes no memory
            own = field.name in ("upstream_idle_s", "connect_steps")  # by default others bound the same
            assert streamed or own or (value > 0 and isfinite(value)), field.name

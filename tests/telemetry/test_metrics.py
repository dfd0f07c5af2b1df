"""Counters are read as they stand, and a table knows its usual labels from the start."""

from robin.telemetry.histogram import Histogram
from robin.telemetry.metrics import Metrics


def values(metrics: Metrics) -> dict[tuple[str, tuple[str, ...]], float | Histogram]:
    return {(name.name, labels): value for name, labels, value in metrics.readings()}


def test_what_the_engine_bumps_is_what_is_read():
    metrics = Metrics(version="1", unsafe={"listen": True, "any_host": False})
    metrics.in_flight += 2
    metrics.body_bytes_in += 10
    metrics.body_bytes_out += 20
    metrics.downstream_connections["unix:/run/robin.sock"] += 1
    metrics.upstream_active += 1
    metrics.upstream_idle += 4
    metrics.upstream_responses[404] += 1
    metrics.retries["eof"] += 1
    metrics.upgrades_active += 1
    metrics.upgrades["switched"] += 5
    metrics.drain_state = 2
    metrics.peer_denied["uid"] += 6
    metrics.ca_reloads["failed"] += 1
    read = values(metrics)
    assert read["robin_requests_in_flight", ()] == 2
    assert read["robin_body_bytes_total", ("in",)] == 10
    assert read["robin_body_bytes_total", ("out",)] == 20
    assert read["robin_downstream_connections", ("unix:/run/robin.sock",)] == 1
    assert read["robin_upstream_connections", ("active",)] == 1
    assert read["robin_upstream_connections", ("idle",)] == 4
    assert read["robin_upstream_responses_total", ("404",)] == 1
    assert read["robin_upstream_retries_total", ("eof",)] == 1
    assert read["robin_upgrades_active", ()] == 1
    assert read["robin_upgrades_total", ("switched",)] == 5
    assert read["robin_drain_state", ()] == 2
    assert read["robin_peer_denied_total", ("uid",)] == 6
    assert read["robin_upstream_ca_reloads_total", ("failed",)] == 1
    assert read["robin_unsafe", ("listen",)] == 1
    assert read["robin_unsafe", ("any_host",)] == 0


def test_usual_labels_are_there_at_zero_so_that_a_rate_sees_the_first_event():
    read = values(Metrics(version="1", unsafe={}))
    for series in (
        ("robin_upstream_retries_total", ("reset",)),
        ("robin_upgrades_total", ("refused",)),
        ("robin_upstream_ca_reloads_total", ("loaded",)),
    ):
        assert read[series] == 0


def test_connects_are_observed_by_result():
    metrics = Metrics(version="1", unsafe={})
    metrics.connected("ok", 0.25)
    metrics.connected("ok", 0.5)
    metrics.connected("dns_timeout", 10.0)
    read = values(metrics)
    ok, late = (read["robin_upstream_connect_duration_seconds", (result,)] for result in ("ok", "dns_timeout"))
    assert isinstance(ok, Histogram)
    assert isinstance(late, Histogram)
    assert (ok.total, sum(ok.counts), late.total) == (0.75, 2, 10.0)

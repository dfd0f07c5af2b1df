"""Identity counters come out under the names and labels of the spec (section 8)."""

from robin.telemetry import names
from robin.telemetry.histogram import Histogram
from robin.telemetry.identity_metrics import IdentityMetrics


def busy() -> IdentityMetrics:
    metrics = IdentityMetrics("jwtsvid")
    metrics.ready = True
    metrics.expires_at = 1_780_000_300.0
    metrics.cache_hit, metrics.cache_wait, metrics.cache_miss = 3, 2, 1
    metrics.served_stale, metrics.torn_reads = 4, 5
    metrics.count_refresh("renewed", "OK", 0.02)
    metrics.count_refresh("error", "Unavailable", 0.2)
    metrics.count_refresh("error", "Unavailable", 0.3)
    metrics.count_rejected("bad_aud")
    return metrics


def test_every_identity_family_is_read_with_its_own_labels() -> None:
    readings = list(busy().readings())
    identity = {name for name in names.METRICS if name.name.startswith("robin_identity_")}
    assert {name for name, _values, _value in readings} == identity
    assert all(len(values) == len(name.labels) for name, values, _value in readings)
    found = {(name.name, values): value for name, values, value in readings if not isinstance(value, Histogram)}
    assert found[("robin_identity_ready", ("jwtsvid",))] == 1
    assert found[("robin_identity_expiry_timestamp_seconds", ("jwtsvid",))] == 1_780_000_300.0
    assert found[("robin_identity_refresh_total", ("jwtsvid", "error", "Unavailable"))] == 2
    assert [found[("robin_identity_cache_total", ("jwtsvid", result))] for result in ("hit", "wait", "miss")] == [3, 2, 1]
    assert found[("robin_identity_rejected_total", ("jwtsvid", "bad_aud"))] == 1
    assert found[("robin_identity_served_stale_total", ("jwtsvid",))] == 4
    assert found[("robin_identity_torn_reads_total", ("jwtsvid",))] == 5


def test_a_source_that_did_nothing_yet_has_no_expiry() -> None:
    found = {name.name for name, _values, _value in IdentityMetrics("file").readings()}
    assert "robin_identity_expiry_timestamp_seconds" not in found
    assert "robin_identity_ready" in found

"""The exposition is strict text, in either format, with every family of the table and the plane on every series."""

import os
import shutil
import subprocess

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families
from prometheus_client.parser import text_string_to_metric_families as read_prometheus
from tests.telemetry.strict_text import read_strictly

from robin.telemetry.exposition import OPENMETRICS, PLAIN, Exposition, prefers_openmetrics
from robin.telemetry.identity_metrics import IdentityMetrics
from robin.telemetry.metrics import Metrics
from robin.telemetry.names import METRICS
from robin.telemetry.writer import LineWriter


def busy_sources() -> tuple[Metrics, LineWriter, IdentityMetrics]:
    """Counters of a sidecar on which everything has happened at least once."""
    metrics = Metrics(version='1.0"\\\n', unsafe={"listen": True, "any_host": False})
    metrics.requests["forwarded", "GET", 2] = 3
    metrics.requests["client_closed", "other", 0] = 1
    metrics.time_to_first_byte.observe(0.004)
    metrics.connected("ok", 0.002)
    metrics.connected("connect_refused", 30.0)
    metrics.upstream_responses[200] += 3
    metrics.downstream_connections["127.0.0.1:4000"] += 1
    metrics.peer_denied["uid"] += 1
    identity = IdentityMetrics("file")
    identity.ready = True
    identity.expires_at = 1_780_000_000.5
    identity.count_refresh("renewed", "ok", 0.0004)
    identity.count_rejected("identity_expired")
    nowhere = os.open(os.devnull, os.O_WRONLY)
    writer = LineWriter(nowhere)
    writer.close()
    os.close(nowhere)
    return metrics, writer, identity


def scrape(accept: str = "") -> tuple[str, str]:
    content_type, text = Exposition(busy_sources(), plane="sidecar").scrape(accept)
    return content_type, text.decode()


def test_plain_text_is_strictly_well_formed_and_has_every_family():
    content_type, text = scrape()
    families = read_strictly(text)
    assert content_type == PLAIN
    assert {name: (family.kind, family.text) for name, family in families.items()} == {
        name.name: (name.kind, name.text) for name in METRICS
    }
    for name, family in families.items():
        for _, labels in family.samples:
            assert ("plane", "sidecar") in labels, name


def test_values_are_what_was_counted():
    families = read_strictly(scrape()[1])
    plane = ("plane", "sidecar")
    requests = families["robin_requests_total"].samples
    assert requests == {
        ("robin_requests_total", frozenset({("outcome", "forwarded"), ("method", "GET"), ("code_class", "2xx"), plane})): 3.0,
        ("robin_requests_total", frozenset({("outcome", "client_closed"), ("method", "other"), ("code_class", "none"), plane})): 1.0,
    }
    refused = frozenset({("result", "connect_refused"), plane})
    connects = families["robin_upstream_connect_duration_seconds"].samples
    assert connects["robin_upstream_connect_duration_seconds_bucket", refused | {("le", "10.0")}] == 0.0
    assert connects["robin_upstream_connect_duration_seconds_bucket", refused | {("le", "+Inf")}] == 1.0
    assert connects["robin_upstream_connect_duration_seconds_sum", refused] == 30.0
    assert families["robin_identity_expiry_timestamp_seconds"].samples == {
        ("robin_identity_expiry_timestamp_seconds", frozenset({("source", "file"), plane})): 1_780_000_000.5
    }
    assert families["process_start_time_seconds"].samples["process_start_time_seconds", frozenset({plane})] > 1_600_000_000


def test_a_label_value_is_escaped():
    build = read_strictly(scrape()[1])["robin_build_info"].samples
    (labels,) = [dict(labels) for _, labels in build]
    assert labels["version"] == r"1.0\"" + r"\\" + r"\n"


def test_openmetrics_is_read_by_a_strict_reader_and_has_the_same_series_and_values():
    content_type, text = scrape("application/openmetrics-text;version=1.0.0")
    assert content_type == OPENMETRICS
    assert text.endswith("# EOF\n")
    families = {family.name: family for family in text_string_to_metric_families(text)}
    assert {name.name.removesuffix("_total") if name.kind == "counter" else name.name: name.kind for name in METRICS} == {
        family.name: family.type for family in families.values()
    }
    moving = ("process_cpu", "process_resident", "process_virtual", "process_open")
    series = {
        (sample.name, frozenset((name, _escape(value)) for name, value in sample.labels.items())): sample.value
        for family in families.values()
        for sample in family.samples
    }
    plain = {series: value for family in read_strictly(scrape()[1]).values() for series, value in family.samples.items()}
    assert series.keys() == plain.keys()
    assert [name for name in series if series[name] != plain[name] and not name[0].startswith(moving)] == []


def _escape(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


def test_the_reader_of_prometheus_client_reads_the_same_values():
    text = scrape()[1]
    told = {(sample.name, frozenset(sample.labels)) for family in read_prometheus(text) for sample in family.samples}
    ours = {(name, frozenset(label for label, _ in labels)) for family in read_strictly(text).values() for name, labels in family.samples}
    assert told == ours


def test_ten_thousand_paths_and_methods_add_no_series(recorded):
    metrics, record, recorder = recorded
    exposition = Exposition((metrics,), plane="sidecar")
    for number in range(300):
        recorder.finish(record(method="GET", path=b"/first/%d" % number))
        recorder.finish(record(method="BREW"))
    before = {series for family in read_strictly(exposition.scrape("")[1].decode()).values() for series in family.samples}
    for number in range(10_000):
        recorder.finish(record(method="GET", path=b"/%d" % number))
        recorder.finish(record(method=f"M{number}"))
    after = read_strictly(exposition.scrape("")[1].decode())
    assert {series for family in after.values() for series in family.samples} == before
    assert sum(after["robin_requests_total"].samples.values()) == 20_600.0


@pytest.mark.parametrize(
    ("accept", "openmetrics"),
    [
        ("", False),
        ("*/*", False),
        ("text/plain", False),
        ("text/plain;version=0.0.4", False),
        ("application/openmetrics-text", True),
        ("application/openmetrics-text; version=1.0.0; charset=utf-8", True),
        ('application/openmetrics-text; version="1.0.0"', True),
        ("application/openmetrics-text;version=2.0.0", False),
        ("application/openmetrics-text;version=1.0.0;q=0", False),
        ("application/openmetrics-text;version=1.0.0;q=0.2,text/plain;version=0.0.4;q=0.5", False),
        ("application/openmetrics-text;q=nan", False),
        ("application/openmetrics-text;q=9", False),
        ("APPLICATION/OPENMETRICS-TEXT", True),
        (
            "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,application/openmetrics-text;version=0.0.1;q=0.5,"
            "text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2",
            True,
        ),
        (";;;,=,q=,application/openmetrics-text;;=;version", False),
    ],
)
def test_the_format_follows_accept(accept: str, openmetrics: bool):
    assert prefers_openmetrics(accept) is openmetrics


@pytest.mark.real
def test_promtool_finds_nothing_to_say():
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed: apt-get install prometheus")
    told = subprocess.run([promtool, "check", "metrics"], input=scrape()[1], capture_output=True, text=True, check=False)
    assert (told.returncode, told.stdout, told.stderr) == (0, "", "")

"""The table of metrics is the specification's list, and the reference page is the table."""

import re
from pathlib import Path

from robin.telemetry.names import METRICS

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "metrics.md"

SPECIFIED = """
robin_requests_total{outcome,method,code_class} robin_request_duration_seconds{outcome} robin_time_to_first_byte_seconds
robin_requests_in_flight robin_body_bytes_total{direction} robin_downstream_connections{listener} robin_upstream_connections{state}
robin_upstream_responses_total{code} robin_identity_ready{source} robin_identity_expiry_timestamp_seconds{source}
robin_identity_fetch_duration_seconds{source,result} robin_identity_refresh_total{source,result,code}
robin_identity_cache_total{source,result} robin_identity_served_stale_total{source} robin_identity_rejected_total{source,reason}
robin_identity_torn_reads_total{source} robin_upstream_retries_total{reason} robin_upstream_connect_duration_seconds{result}
robin_upgrades_active robin_upgrades_total{result} robin_drain_state robin_peer_denied_total{reason}
robin_upstream_ca_reloads_total{result} robin_access_records_dropped_total robin_unsafe{switch} robin_build_info{version,python}
robin_passport_issued_total{profile,class} robin_passport_denied_total{component,reason}
robin_passport_verified_total{profile,surface,outcome} robin_passport_verify_seconds{profile} robin_replay_entries
robin_bundle_age_seconds robin_bundle_reload_errors_total robin_broker_connections
process_cpu_seconds_total process_open_fds process_max_fds process_virtual_memory_bytes process_resident_memory_bytes
process_start_time_seconds
"""


def test_the_table_is_what_section_8_of_the_specification_lists():
    assert [f"{name.name}{{{','.join(name.labels)}}}" if name.labels else name.name for name in METRICS] == SPECIFIED.split()


def test_names_are_prometheus_names_with_bounded_labels():
    for name in METRICS:
        assert re.fullmatch(r"(robin|process)_[a-z_]+[a-z]", name.name)
        assert (name.kind == "counter") == name.name.endswith("_total")
        assert re.fullmatch(r"[^\\\"\n]+\.", name.text)  # HELP is written as it is
        assert not {"path", "subject", "audience", "le", "plane"} & set(name.labels)


def test_the_reference_page_lists_every_metric_with_its_kind_and_labels():
    rows = re.findall(r"^\| `([a-z_]+)` \| (\w+) \|([^|]*)\| ([^|]+) \|$", PAGE.read_text(), re.MULTILINE)
    told = {name: (kind, labels.replace("`", "").replace(",", " ").split()) for name, kind, labels, _ in rows}
    assert told == {name.name: (name.kind, list(name.labels)) for name in METRICS}
    assert len(rows) == len(METRICS)

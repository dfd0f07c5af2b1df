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
robin_grant_calls_total{provider,kind,outcome} robin_grant_call_duration_seconds{provider,kind}
robin_grant_cache_total{provider,result} robin_grant_cache_entries robin_grant_flights{provider} robin_grant_waiters{provider}
robin_grant_negative_entries{class} robin_grant_forced_refresh_total{provider,result} robin_grant_replays_total{provider,result}
robin_grant_injections_total{provider,style} robin_grant_throttled_total{provider}
robin_grant_answer_warnings_total{provider,reason} robin_grant_echo_redacted_total{provider}
robin_grant_usable_seconds{provider,credential} robin_grant_clock_offset_seconds{provider}
robin_passport_issued_total{profile,class} robin_passport_denied_total{component,reason}
robin_passport_verified_total{profile,surface,outcome} robin_passport_verify_seconds{profile} robin_replay_entries
robin_bundle_age_seconds robin_bundle_reload_errors_total robin_svid_expiry_seconds robin_broker_connections
robin_kube_requests_total{agent,tier,decision,code} robin_kube_refusals_total{code} robin_kube_auth_failures_total{reason}
robin_kube_request_seconds{tier,phase} robin_kube_mints_total{result} robin_kube_token_seconds{kind} robin_kube_sessions{kind}
robin_kube_session_ends_total{kind,reason} robin_kube_policy_reloads_total{result} robin_kube_policy_info{digest}
robin_kube_bootstrap_expiry_seconds
robin_config_reload_total{result} robin_gateway_decisions_total{listener,op,verdict,code,rule} robin_gateway_would_deny_total{rule}
robin_gateway_auth_failures_total{listener,reason} robin_gateway_exchange_seconds{op,tls} robin_gateway_bytes_total{direction,tls}
robin_gateway_tunnels{tls} robin_gateway_dns_seconds{result} robin_gateway_address_refused_total{class}
robin_gateway_upstream_tls_errors_total{reason} robin_gateway_client_tls_rejects_total{alert} robin_gateway_leaf_mints_total
robin_gateway_leaf_cache_hits_total robin_gateway_ca_not_after_seconds{slot} robin_gateway_ca_signing{slot} robin_gateway_ca_pending
robin_gateway_jwks_age_seconds{issuer} robin_gateway_jwks_fetches_total{issuer,result} robin_gateway_canary_up
robin_gateway_limit_hits_total{limit} robin_gateway_mode{mode}
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

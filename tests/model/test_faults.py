"""The fault table is closed and whole: each code has a status, an RFC 9209 word, a source and a retry hint that agree (section 7)."""

import re
from http import HTTPStatus

import pytest

from robin.model.faults import FAULTS, OUTCOMES, Fault, FaultKind, FaultSource
from robin.model.gateway_faults import GATEWAY_FAULTS
from robin.model.grant_faults import GRANT_FAULTS
from robin.model.kube_faults import KUBE_FAULTS

TABLES = (GATEWAY_FAULTS, GRANT_FAULTS, KUBE_FAULTS)
OF_PLANES = {code for table in TABLES for code in table}

# RFC 9209 section 2.3, all proxy error types.
PROXY_ERRORS = set(
    """dns_timeout dns_error destination_not_found destination_unavailable destination_ip_prohibited destination_ip_unroutable
    connection_refused connection_terminated connection_timeout connection_read_timeout connection_write_timeout connection_limit_reached
    tls_protocol_error tls_certificate_error tls_alert_received http_request_error http_request_denied http_response_incomplete
    http_response_header_section_size http_response_header_size http_response_body_size http_response_trailer_section_size
    http_response_trailer_size http_response_transfer_coding http_response_content_coding http_response_timeout http_upgrade_failed
    http_protocol_error proxy_internal_response proxy_internal_error proxy_configuration_error proxy_loop_detected""".split()
)


@pytest.mark.parametrize("kind", FAULTS.values(), ids=list(FAULTS))
def test_every_line_of_the_table_is_whole(kind: FaultKind) -> None:
    assert re.fullmatch(r"(kube\.)?[a-z]+(_[a-z]+)*", kind.code)
    assert HTTPStatus(kind.status) >= 400
    assert kind.error in PROXY_ERRORS
    assert kind.title[0].isupper()
    assert not kind.title.endswith(".")


@pytest.mark.parametrize("kind", FAULTS.values(), ids=list(FAULTS))
def test_only_a_503_or_429_promises_that_a_retry_may_help(kind: FaultKind) -> None:
    assert kind.retry_after_s is None or kind.status in {429, 503} or kind.source is FaultSource.ISSUER


def test_no_code_is_in_two_tables() -> None:
    assert len(OF_PLANES) == sum(map(len, TABLES))
    assert {FAULTS[code] for code in OF_PLANES} == {kind for table in TABLES for kind in table.values()}  # none replaces one of the engine


def test_each_source_is_that_of_some_fault() -> None:
    assert {kind.source for kind in FAULTS.values()} == set(FaultSource)


@pytest.mark.parametrize(
    "kind",
    [kind for kind in FAULTS.values() if kind.source is FaultSource.DOWNSTREAM and kind.code not in OF_PLANES],
    ids=lambda kind: kind.code,
)
def test_after_a_malformed_request_the_connection_closes(kind: FaultKind) -> None:
    assert kind.closes


def test_a_configuration_that_is_wrong_promises_no_retry() -> None:
    assert FAULTS["audience_mismatch"].retry_after_s is None
    assert FAULTS["identity_refused"].retry_after_s is None


def test_the_outcomes_are_the_codes_and_four_more() -> None:
    assert OUTCOMES - FAULTS.keys() == {"forwarded", "local_response", "client_closed", "upstream_aborted", "drain_cut"}


def test_a_fault_says_its_code_and_takes_the_tables_hint_unless_it_knows_better() -> None:
    assert Fault("draining").code == "draining"
    assert Fault("draining").retry_after_s == 1
    assert Fault("identity_unavailable", retry_after_s=7.5).retry_after_s == 7.5
    assert Fault("bad_request").retry_after_s is None


def test_a_fault_with_an_unknown_code_cannot_be_made() -> None:
    with pytest.raises(KeyError):
        Fault("oops")

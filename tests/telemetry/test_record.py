"""A record starts as nothing known, and blames Robin until somebody knows better."""

from robin.model.caller import Caller, Evidence
from robin.model.faults import OUTCOMES
from robin.telemetry.record import ExchangeRecord


def test_a_fresh_record_knows_nothing_and_says_internal_error():
    record = ExchangeRecord(Caller(evidence=Evidence.LOOPBACK, listener="l"), 5.0)
    assert (record.outcome, record.started_at, record.bytes_in, record.bytes_out, record.retries) == ("internal_error", 5.0, 0, 0, 0)
    assert record.outcome in OUTCOMES
    for name in ("request_id", "method", "path", "protocol", "status", "upstream_status", "ttfb_s", "reused", "identity", "traceparent"):
        assert getattr(record, name) is None

"""What is reported when: counters, log lines, and the change callback."""

import dataclasses
import json
import os
from pathlib import Path

from tests.identity.parts import Parts

from robin.identity.reporter import IdentityReporter
from robin.identity.source import SourceFailure
from robin.model.secret import Secret
from robin.telemetry.logs import EventLog
from robin.telemetry.writer import LineWriter
from robin.testing.tokens import make_token
from robin.wire.jwt_inspection import TokenRules, inspect_token


def test_a_wrong_audience_is_an_error_once_per_token_and_then_each_minute() -> None:
    parts = Parts()
    reporter = IdentityReporter(parts.dependencies, parts.metrics)

    def fail(about: bytes) -> None:
        reporter.failed(SourceFailure("bad_aud", "bad_aud: other; fix", fault="audience_mismatch"), 0.0, about=about)

    for _ in range(10):
        fail(b"one")
    assert parts.log.count("identity_misconfigured") == 1
    fail(b"two")
    assert parts.log.count("identity_misconfigured") == 2
    parts.clock.advance(59)
    fail(b"two")
    assert parts.log.count("identity_misconfigured") == 2
    parts.clock.advance(1)
    fail(b"two")
    assert parts.log.count("identity_misconfigured") == 3
    assert parts.metrics.refreshes == {("error", "bad_aud"): 13}
    assert {level for level, _event, _fields in parts.log.lines} == {"error"}


def test_other_failures_are_warnings_with_a_code_for_the_limit_of_the_log() -> None:
    parts = Parts()
    reporter = IdentityReporter(parts.dependencies, parts.metrics, path="/run/token")
    reporter.failed(SourceFailure("Unavailable", "unavailable: no; fix"), 0.5)
    assert parts.log.lines == [
        (
            "warning",
            "identity_refresh_failed",
            {
                "code": "Unavailable",
                "source": "test",
                "fault": "identity_unavailable",
                "path": "/run/token",
                "detail": "unavailable: no; fix",
            },
        )
    ]
    assert parts.metrics.fetches["error"].total == 0.5


def test_readiness_is_told_when_it_turns() -> None:
    parts = Parts()
    reporter = IdentityReporter(parts.dependencies, parts.metrics)
    token = inspect_token(Secret(make_token(expires_at=parts.clock.wall() + 60)), TokenRules(), now=parts.clock.wall())
    reporter.report_state(usable=False, fault="identity_unavailable")
    assert parts.changes == 0
    reporter.renewed(token, "ok", 0.001)
    assert (parts.changes, parts.metrics.ready, parts.metrics.expires_at) == (1, True, token.expires_at)
    reporter.report_state(usable=True, fault="")
    assert parts.changes == 1
    reporter.report_state(usable=False, fault="identity_expired")
    reporter.report_state(usable=False, fault="identity_expired")
    assert (parts.changes, parts.metrics.ready) == (2, False)
    assert parts.log.lines[-1] == ("error", "identity_lost", {"source": "test", "fault": "identity_expired"})
    reporter.report_state(usable=True, fault="")
    assert (parts.changes, parts.log.count("identity_ready")) == (3, 1)


def test_each_loss_of_one_minute_is_written_so_that_the_last_word_of_the_log_is_true(tmp_path: Path) -> None:
    parts, path = Parts(), tmp_path / "lines"
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT)
    writer = LineWriter(descriptor)
    log = EventLog(writer, level="info", style="json", wall=parts.clock.wall, monotonic=parts.clock.monotonic)
    reporter = IdentityReporter(dataclasses.replace(parts.dependencies, log=log), parts.metrics)
    reporter.usable = True
    for usable in (False, True, False):
        reporter.report_state(usable=usable, fault="" if usable else "identity_expired")
        parts.clock.advance(1)
    writer.close()
    os.close(descriptor)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(line["event"], line.get("fault")) for line in lines] == [
        ("identity_lost", "identity_expired"),
        ("identity_ready", None),
        ("identity_lost", "identity_expired"),
    ]


def test_a_crash_is_told_by_type_and_stack_without_its_text() -> None:
    parts = Parts()
    try:
        raise ValueError("eyJ.secret.token")
    except ValueError as error:
        IdentityReporter(parts.dependencies, parts.metrics).crashed("the identity source", error)
    assert parts.log.codes("identity_crashed") == ["ValueError"]
    assert "test_reporter.py" in parts.log.lines[0][2]["stack"]
    assert "secret" not in repr(parts.log.lines)

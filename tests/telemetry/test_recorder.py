"""One call per exchange: it counts, and writes one JSON line that hostile bytes cannot break (P1)."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.telemetry.conftest import KeptLines, MakeRecord, WrittenLines, make_record, make_recorder

from robin.model.caller import Caller, Evidence
from robin.model.identity import IdentityToken
from robin.model.secret import Secret
from robin.telemetry.columns import Column, Columns
from robin.telemetry.metrics import Metrics
from robin.telemetry.record import ExchangeRecord
from robin.telemetry.recorder import METHOD_LABELS, Recorder
from robin.telemetry.trace_context import trace_id
from robin.testing.manual_clock import ManualClock
from robin.wire import http1

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "log-fields.md"
FIELDS = (
    "ts event request_id trace_id outcome credential method path protocol status upstream_status bytes_in bytes_out ttfb_s duration_s "
    "identity_wait_s retries reused listener peer_uid peer_pid identity"
).split()
TRACE = b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


def make_token(**what: object) -> IdentityToken:
    ordinary = {
        "value": Secret(b"canary"),
        "subject": "system:serviceaccount:shop:cart",
        "audiences": ("broker.example",),
        "not_before_at": None,
    }
    times = {"expires_at": 1_780_000_100.9, "seen_at": 1_779_999_000.0, "usable_until": 1_780_000_095.9}
    return IdentityToken(**{**ordinary, **times, **what})  # type: ignore[arg-type]


def test_the_line_has_every_field_of_the_specification_in_its_order(written: WrittenLines):
    caller = Caller(evidence=Evidence.UNIX_PEER, listener="unix:/run/robin.sock", uid=1000, pid=77)
    make_recorder(written.writer).finish(
        make_record(
            caller=caller,
            method="POST",
            path=b"/v1/chat",
            bytes_in=10,
            bytes_out=2000,
            ttfb_s=0.0123456,
            duration_s=1.5,
            identity_wait_s=0.25,
            retries=1,
            reused=False,
            traceparent=TRACE,
            identity=make_token(),
            credential="forward",
        )
    )
    line = json.loads(written.read())
    assert list(line) == FIELDS
    assert line == {
        "ts": "2026-05-28T20:26:40.000Z",
        "event": "exchange",
        "request_id": "0123456789abcdef0000000000000001",
        "trace_id": "4bf92f3577b34da6a3ce929d0e0e4736",
        "outcome": "forwarded",
        "credential": "forward",
        "method": "POST",
        "path": "/v1/chat",
        "protocol": "HTTP/1.1",
        "status": 200,
        "upstream_status": 200,
        "bytes_in": 10,
        "bytes_out": 2000,
        "ttfb_s": 0.012346,
        "duration_s": 1.5,
        "identity_wait_s": 0.25,
        "retries": 1,
        "reused": False,
        "listener": "unix:/run/robin.sock",
        "peer_uid": 1000,
        "peer_pid": 77,
        "identity": {"source": "file", "sub": "system:serviceaccount:shop:cart", "aud": ["broker.example"], "expires_in_s": 100},
    }


def test_what_is_not_known_is_null(written: WrittenLines):
    nothing = dict.fromkeys(("method", "path", "protocol", "status", "upstream_status", "ttfb_s", "reused"))
    make_recorder(written.writer).finish(make_record(outcome="peer_denied", **nothing))
    line = json.loads(written.read())
    assert list(line) == FIELDS
    absent = {*nothing, "trace_id", "credential", "peer_uid", "peer_pid", "identity"}
    assert {name for name, value in line.items() if value is None} == absent


def test_every_line_shows_the_time_left_of_its_own_token(written: WrittenLines):
    recorder = make_recorder(written.writer)
    opaque = make_token(subject=None, audiences=(), expires_at=None)
    for token in (make_token(), make_token(expires_at=1_780_000_007.0), opaque, make_token(expires_at=float("inf")), make_token()):
        recorder.finish(make_record(identity=token))
    seen = [json.loads(line)["identity"] for line in written.read().splitlines()]
    assert [identity["expires_in_s"] for identity in seen] == [100, 7, None, None, 100]
    assert (seen[2]["sub"], seen[2]["aud"]) == (None, [])


def test_the_token_itself_is_never_written(written: WrittenLines):
    make_recorder(written.writer).finish(make_record(identity=make_token()))
    assert "canary" not in written.read()


def test_a_request_id_shown_to_the_caller_is_the_one_in_the_line(written: WrittenLines):
    recorder = make_recorder(written.writer)
    shown = recorder.request_id()
    recorder.finish(make_record())
    recorder.finish(make_record(request_id=shown))
    first, second = (json.loads(line)["request_id"] for line in written.read().splitlines())
    assert second == shown
    assert first != shown
    assert all(re.fullmatch(r"[0-9a-f]{32}", request_id) for request_id in (first, second))


def test_a_query_never_gets_in_and_a_long_path_is_cut(written: WrittenLines):
    recorder = make_recorder(written.writer)
    recorder.finish(make_record(path=b"/x?token=canary?y"))
    recorder.finish(make_record(path=b"/" + b"a" * 60_000 + b"?canary"))
    text = written.read()
    assert [len(json.loads(line)["path"]) for line in text.splitlines()] == [2, 2048]
    assert "canary" not in text


def test_long_claims_are_cut(written: WrittenLines):
    make_recorder(written.writer).finish(make_record(identity=make_token(subject="s" * 9000, audiences=("a" * 9000,) * 99)))
    identity = json.loads(written.read())["identity"]
    assert (len(identity["sub"]), len(identity["aud"]), {len(audience) for audience in identity["aud"]}) == (2048, 16, {2048})


def test_quotes_line_ends_and_terminal_codes_stay_inside_the_line(written: WrittenLines):
    hostile = b'/"},"outcome":"forwarded"\r\n\x1b[2J\x00\x7f\x9b\xff\\'
    make_recorder(written.writer).finish(make_record(path=hostile, outcome="bad_request"))
    text = written.read()
    assert re.fullmatch(r"[\x20-\x7e]*\n", text)
    assert (json.loads(text)["path"], json.loads(text)["outcome"]) == (hostile.decode("latin-1"), "bad_request")


anything = st.text(max_size=40)


@given(
    path=st.none() | st.binary(max_size=60),
    method=st.none() | anything,
    protocol=st.none() | anything,
    credential=st.none() | anything,
    listener=anything,
    subject=st.none() | st.text(st.characters(), max_size=40),
    audiences=st.lists(anything, max_size=3),
    traceparent=st.none() | st.binary(max_size=70),
    seconds=st.floats(0, 1e9),
    count=st.integers(0, 2**63),
    style=st.sampled_from(["json", "console"]),
)
def test_whatever_came_in_the_record_is_one_line_of_printable_ascii(
    path, method, protocol, credential, listener, subject, audiences, traceparent, seconds, count, style
):
    writer = KeptLines()
    make_recorder(writer, style=style).finish(
        make_record(
            caller=Caller(evidence=Evidence.LOOPBACK, listener=listener),
            path=path,
            method=method,
            protocol=protocol,
            credential=credential,
            identity=make_token(subject=subject, audiences=tuple(audiences)),
            traceparent=traceparent,
            ttfb_s=seconds,
            duration_s=seconds,
            bytes_in=count,
        )
    )
    (line,) = writer.lines
    assert re.fullmatch(r"[\x20-\x7e]*\n", line)
    if style == "json":
        read = json.loads(line, parse_constant=pytest.fail)
        assert list(read) == FIELDS
        assert read["path"] == (None if path is None else path.partition(b"?")[0].decode("latin-1"))
        assert (read["method"], read["protocol"], read["credential"]) == (method, protocol, credential)
        assert (read["listener"], read["bytes_in"]) == (listener, count)
        assert (read["identity"]["sub"], read["identity"]["aud"]) == (subject, audiences)
        assert read["duration_s"] == pytest.approx(seconds, abs=1e-6)


def test_an_exchange_is_counted_by_outcome_method_and_class():
    metrics = Metrics(version="1", unsafe={})
    recorder = make_recorder(KeptLines(), metrics=metrics)
    recorder.finish(make_record())
    recorder.finish(make_record())
    recorder.finish(make_record(outcome="upstream_closed", status=502, upstream_status=None, ttfb_s=None, duration_s=2.0))
    recorder.finish(make_record(outcome="client_closed", method="PROPFIND", status=None, upstream_status=401))
    assert metrics.requests == {("forwarded", "GET", 2): 2, ("upstream_closed", "GET", 5): 1, ("client_closed", "other", 0): 1}
    assert metrics.upstream_responses == {200: 2, 401: 1}
    assert {outcome: sum(histogram.counts) for outcome, histogram in metrics.request_duration.items()} == {
        "forwarded": 2,
        "upstream_closed": 1,
        "client_closed": 1,
    }
    assert metrics.request_duration["upstream_closed"].total == 2.0
    assert sum(metrics.time_to_first_byte.counts) == 3


@pytest.mark.parametrize(
    ("mode", "written_outcomes"),
    [("all", ["forwarded", "forwarded", "loop", "forwarded"]), ("errors", ["loop", "forwarded"]), ("off", [])],
)
def test_the_access_log_writes_what_it_is_told_to_and_counting_goes_on(mode: str, written_outcomes: list[str]):
    writer, metrics = KeptLines(), Metrics(version="1", unsafe={})
    recorder = make_recorder(writer, mode=mode, metrics=metrics)
    for outcome, status in (("forwarded", 200), ("forwarded", 302), ("loop", 502), ("forwarded", 404)):
        recorder.finish(make_record(outcome=outcome, status=status))
    assert [json.loads(line)["outcome"] for line in writer.lines] == written_outcomes
    assert sum(metrics.requests.values()) == 4


def test_console_lines_are_for_people():
    writer = KeptLines()
    recorder = make_recorder(writer, style="console")
    recorder.finish(make_record(path=b"/v1/models?key=1", duration_s=0.0123))
    recorder.finish(make_record(method="POST", status=None, outcome="client_closed", retries=1, identity_wait_s=0.5, path=b"/\x1b[31m"))
    recorder.finish(make_record(method=None, path=None, status=403, outcome="peer_denied"))
    assert writer.lines == [
        "20:26:40.000Z GET     /v1/models -> 200 12.3 ms\n",
        "20:26:40.000Z POST    /\\u001b[31m -> - 2.0 ms client_closed retries=1 identity_wait=500 ms\n",
        "20:26:40.000Z -       - -> 403 2.0 ms peer_denied\n",
    ]


@pytest.mark.parametrize(
    ("traceparent", "expected"),
    [
        (TRACE, "4bf92f3577b34da6a3ce929d0e0e4736"),
        (TRACE.replace(b"00-", b"cc-", 1) + b"-what-comes-later", "4bf92f3577b34da6a3ce929d0e0e4736"),
        (TRACE.replace(b"00-", b"cc-", 1), "4bf92f3577b34da6a3ce929d0e0e4736"),
        (None, None),
        (b"", None),
        (TRACE + b"-more", None),
        (TRACE.replace(b"00-", b"ff-", 1), None),
        (TRACE.replace(b"00-", b"cc-", 1) + b"more", None),
        (TRACE.upper(), None),
        (TRACE.replace(b"4bf92f3577b34da6a3ce929d0e0e4736", b"0" * 32), None),
        (TRACE.replace(b"00f067aa0ba902b7", b"0" * 16), None),
        (b" " + TRACE, None),
        (TRACE + b"\n", None),
        (TRACE[:-1], None),
    ],
)
def test_a_trace_id_is_taken_from_a_valid_traceparent_only(traceparent: bytes | None, expected: str | None):
    assert trace_id(traceparent) == expected


def test_the_method_label_is_one_that_can_occur(recorded: tuple[Metrics, MakeRecord, Recorder]):
    """A method that is refused ends with its head, so that no record of it has a method."""
    served = set(http1.METHODS.values())
    assert served > METHOD_LABELS
    metrics, make, recorder = recorded
    for method in sorted(served):
        recorder.finish(make(method=method))
    recorder.finish(make(outcome="method_refused", method=None, path=None, status=405))
    assert {method for outcome, method, _ in metrics.requests if outcome == "forwarded"} == METHOD_LABELS | {"other"}
    assert metrics.requests["method_refused", "other", 4] == 1


def test_the_metrics_page_names_the_methods_of_the_label():
    (row,) = re.findall(r"^\| `robin_requests_total` \|.*$", (PAGE.parent / "metrics.md").read_text(), re.MULTILINE)
    sentence = row.partition("`method`: ")[2].partition(" `code_class`")[0]
    assert set(re.findall(r"`([A-Z]+)`", sentence.partition(", else `other`")[0])) == METHOD_LABELS


def test_the_reference_page_lists_the_fields_in_their_order():
    table = PAGE.read_text().partition("## Access records")[2].partition("\n## ")[0]
    assert re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE) == FIELDS


class Moments:
    """What was put off, to be done when the test says so."""

    def __init__(self) -> None:
        self.put_off: list[Callable[[], None]] = []

    def put(self, act: Callable[[], None]) -> None:
        self.put_off.append(act)

    def pass_by(self) -> None:
        due, self.put_off = self.put_off, []
        for act in due:
            act()


def unhurried(later: Moments) -> tuple[Recorder, KeptLines, Metrics]:
    writer, metrics = KeptLines(), Metrics(version="1", unsafe={})
    return make_recorder(writer, metrics=metrics, later=later.put), writer, metrics


def test_exchanges_are_counted_and_written_together_a_moment_later_with_one_timer_for_all():
    later = Moments()
    recorder, writer, metrics = unhurried(later)
    for _ in range(3):
        recorder.finish(make_record())
    assert (len(writer.lines), sum(metrics.requests.values()), len(later.put_off)) == (0, 0, 1)
    later.pass_by()
    assert (len(writer.lines), sum(metrics.requests.values())) == (3, 3)
    recorder.finish(make_record())
    assert len(later.put_off) == 1


def test_many_exchanges_do_not_wait_for_the_moment():
    later = Moments()
    recorder, writer, _ = unhurried(later)
    for _ in range(100):
        recorder.finish(make_record())
    assert len(writer.lines) == 96
    assert len(later.put_off) == 1
    later.pass_by()
    assert len(writer.lines) == 100


def test_a_scrape_finds_every_exchange_that_ended():
    later = Moments()
    recorder, writer, metrics = unhurried(later)
    recorder.finish(make_record())
    assert list(recorder.readings()) == []
    assert (len(writer.lines), sum(metrics.requests.values())) == (1, 1)


def test_the_time_of_a_line_is_that_of_the_end_of_its_exchange_not_of_its_writing():
    later, writer, clock = Moments(), KeptLines(), ManualClock()
    make_recorder(writer, wall=clock.wall, later=later.put).finish(make_record())
    clock.advance(5.0)
    later.pass_by()
    assert json.loads(writer.lines[0])["ts"] == "2026-05-28T20:26:40.000Z"


def test_another_plane_has_its_own_columns():
    def render(parts: tuple[str, ...], record: ExchangeRecord, timestamp: str, identity: str) -> str:
        first, second, end = parts
        return f'{first}"{timestamp}"{second}{record.bytes_in}{end}'

    columns = Columns(
        columns=(
            Column(name="ts"),
            Column(name="plane", constant="gateway"),
            Column(name="port", attribute="caller.listener"),
            Column(name="in"),
            Column(name="method", attribute="method"),
            Column(name="retries", attribute="retries"),
        ),
        render=render,
    )
    writer = KeptLines()
    recorder = make_recorder(writer, columns=columns)
    for method in ("GET", 'P"%s{}', None):
        recorder.finish(make_record(method=method, bytes_in=7))
    assert writer.lines == [
        f'{{"ts":"2026-05-28T20:26:40.000Z","plane":"gateway","port":"127.0.0.1:4000","in":7,"method":{method},"retries":0}}\n'
        for method in ('"GET"', r'"P\"%s{}"', "null")
    ]

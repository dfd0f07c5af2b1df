"""Events stay one line whatever is in them, are held back when they repeat, and never raise."""

import ast
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.telemetry.conftest import KeptLines, WrittenLines

from robin.model.secret import Secret
from robin.telemetry.logs import EventLog, stack_of
from robin.telemetry.writer import LineWriter
from robin.testing.manual_clock import ManualClock


def make_log(writer: LineWriter, clock: ManualClock, level: str = "debug", style: str = "json") -> EventLog:
    return EventLog(writer, level=level, style=style, wall=clock.wall, monotonic=clock.monotonic)  # type: ignore[arg-type]


def read_json(written: WrittenLines) -> list[dict[str, object]]:
    return [json.loads(line) for line in written.read().splitlines()]


def test_an_event_is_one_json_line_in_a_fixed_order(written):
    log = make_log(written.writer, ManualClock())
    log.info("started", listen=["127.0.0.1:4000", "[::1]:4000"], workers=1)
    assert written.read() == (
        '{"ts":"2026-05-28T20:26:40.000Z","level":"info","event":"started","listen":["127.0.0.1:4000","[::1]:4000"],"workers":1}\n'
    )


@pytest.mark.parametrize(("level", "seen"), [("debug", 4), ("info", 3), ("warning", 2), ("error", 1)])
def test_levels_below_the_chosen_one_are_not_written(written, level: str, seen: int):
    log = make_log(written.writer, ManualClock(), level)
    for put in (log.debug, log.info, log.warning, log.error):
        put("something")
    assert [line["level"] for line in read_json(written)] == ["debug", "info", "warning", "error"][4 - seen :]


def test_the_same_code_is_written_once_a_minute_and_the_next_line_says_how_many_were_held_back(written):
    clock = ManualClock()
    log = make_log(written.writer, clock)
    for _ in range(60):
        log.error("accept_failed", code="EMFILE")
        clock.advance(1.0)
    log.error("accept_failed", code="EMFILE", detail="later")
    clock.advance(60.0)
    log.error("accept_failed", code="EMFILE")
    first, second, third = read_json(written)
    assert "suppressed" not in first
    assert (second["suppressed"], second["detail"], second["ts"]) == (59, "later", "2026-05-28T20:27:40.000Z")
    assert "suppressed" not in third


def test_another_code_another_event_and_no_code_are_not_held_back(written):
    log = make_log(written.writer, ManualClock())
    for event, code in (("a", "x"), ("a", "y"), ("b", "x"), ("a", None), ("a", None), ("a", "x")):
        log.warning(event, code=code)
    assert [(line["event"], line.get("code")) for line in read_json(written)] == [
        ("a", "x"),
        ("a", "y"),
        ("b", "x"),
        ("a", None),
        ("a", None),
    ]


def test_a_wall_clock_that_steps_back_holds_nothing_back_for_longer(written):
    clock = ManualClock()
    log = make_log(written.writer, clock)
    log.error("x", code="y")
    clock.step_wall(-3600)
    clock.advance(60)
    log.error("x", code="y")
    assert len(read_json(written)) == 2


def test_held_back_lines_below_the_level_are_not_counted(written):
    log = make_log(written.writer, ManualClock(), "error")
    log.warning("x", code="y")
    log.error("x", code="y")
    assert [line["level"] for line in read_json(written)] == ["error"]


def test_codes_without_end_hold_bounded_memory(written):
    log = make_log(written.writer, ManualClock())
    for number in range(1025):
        log.error("x", code=str(number))
    log.error("x", code="0")  # forgotten by now, and so written again
    assert len(read_json(written)) == 1026


class Loud(Exception):
    """An error whose message must not be read."""

    def __str__(self) -> str:
        raise AssertionError("somebody asked for the message")

    __repr__ = __str__


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (Secret(b"canary"), "Secret"),
        (b"canary", "6 bytes"),
        (bytearray(b"canary"), "6 bytes"),
        (ValueError("canary"), "ValueError"),
        (Loud(), "Loud"),
        (OSError(13, "Permission denied", "/canary"), "PermissionError: Permission denied"),
        (OSError("canary"), "OSError"),
        (object(), "object"),
        (float("nan"), None),
        (float("inf"), None),
        (1.5, 1.5),
        (True, True),
        ({"a": [b"canary", Secret(b"canary")]}, {"a": ["6 bytes", "Secret"]}),
        ([[[[["deep"]]]]], [[[["list"]]]]),
        ("x" * 5000, "x" * 2048 + "..."),
        pytest.param(10**5000, "int", id="huge"),
        ({b"canary": 1}, {"bytes": 1}),
        ({10**5000: 1}, {"int": 1}),
    ],
)
def test_a_field_shows_no_more_than_it_may(written, value: object, shown: object):
    make_log(written.writer, ManualClock()).error("x", field=value)
    text = written.read()
    assert json.loads(text)["field"] == shown
    assert "canary" not in text


def test_a_field_cannot_pose_as_the_level_or_the_time(written):
    make_log(written.writer, ManualClock()).info("x", level="error", ts="never")
    assert written.read() == '{"ts":"2026-05-28T20:26:40.000Z","level":"info","event":"x"}\n'


def test_console_lines_are_for_people(written):
    log = make_log(written.writer, ManualClock(), style="console")
    log.info("started", listen=["127.0.0.1:4000", "[::1]:4000"], admin="127.0.0.1:4001")
    log.warning("unsafe", code="any_host", detail='say "please"\n\x1b[31m')
    assert written.read() == (
        "20:26:40.000Z info    started listen=127.0.0.1:4000,[::1]:4000 admin=127.0.0.1:4001\n"
        '20:26:40.000Z warning unsafe code=any_host detail="say \\"please\\"\\n\\u001b[31m"\n'
    )


leaves = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary()
trees = st.recursive(leaves, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner) | st.tuples(inner), max_leaves=20)


@given(value=trees, style=st.sampled_from(["json", "console"]))
def test_whatever_a_field_holds_the_event_is_one_line_of_printable_ascii(value: object, style: str):
    writer = KeptLines()
    make_log(writer, ManualClock(), style=style).info("x", field=value)
    (line,) = writer.lines
    assert re.fullmatch(r"[\x20-\x7e]*\n", line)
    if style == "json":
        assert set(json.loads(line, parse_constant=pytest.fail)) == {"ts", "level", "event", "field"}


def fail_like(*steps: Callable[[], object]) -> BaseException:
    """The error of the first step, with that of each later step raised while handling it."""
    try:
        steps[0]()
    except Exception as error:
        if len(steps) == 1:
            return error
        try:
            steps[1]()
        except Exception as later:
            return later
    raise AssertionError("no step failed")


def test_a_stack_names_places_and_types_and_no_messages():
    told = stack_of(fail_like(lambda: int("canary"), lambda: {}["canary"]))
    assert re.fullmatch(
        r"KeyError < <lambda> telemetry/test_logs\.py:\d+ < fail_like telemetry/test_logs\.py:\d+"
        r" <- ValueError < <lambda> telemetry/test_logs\.py:\d+ < fail_like telemetry/test_logs\.py:\d+",
        told,
    )


def test_a_deep_stack_is_cut_to_its_innermost_frames():
    def dive(depth: int) -> int:
        return 1 // depth if depth == 0 else dive(depth - 1)

    told = stack_of(fail_like(lambda: dive(200)))
    assert told.startswith("ZeroDivisionError < dive ")
    assert told.count(" < ") == 16


ROOT = Path(__file__).parents[2]
LEVELS = {"debug", "info", "warning", "error"}


def events_of(source: Path) -> Iterator[tuple[str, str, set[str]]]:
    """(event, level, own fields) of every event that a module writes with a literal name."""
    for node in ast.walk(ast.parse(source.read_text())):
        if (
            source.parts[-2:] == ("config", "check.py")
            and isinstance(node, ast.Tuple)
            and len(node.elts) == 2
            and isinstance(node.elts[1], ast.Dict)
        ):  # a warning as data
            event, fields = node.elts
            assert isinstance(event, ast.Constant)
            assert isinstance(fields, ast.Dict)
            yield event.value, "warning", {key.value for key in fields.keys if isinstance(key, ast.Constant)}
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            event_name, names = node.args[0].value, {keyword.arg or "upstream" for keyword in node.keywords} - {"code"}  # `**`: the plane's
            if called in LEVELS and isinstance(event_name, str) and re.fullmatch(r"[a-z][a-z0-9_]+", event_name):
                yield event_name, called, names
            elif called == "warn" and source.parent.name == "transport":  # told through the app's callback, which adds `detail`
                yield str(event_name), "warning", {"detail"}


def test_the_reference_page_lists_every_event_with_its_level_and_fields():
    written: dict[str, tuple[str, set[str]]] = {}
    for source in sorted((ROOT / "src" / "robin").rglob("*.py")):
        for event, level, fields in events_of(source):
            known = written.get(event, (level, set()))
            assert known[0] == level, f"{event} has two levels"
            written[event] = (level, known[1] | fields)
    page = (ROOT / "docs" / "reference" / "log-fields.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \| (debug|info|warning|error) \| [^|]+ \|([^|]*)\|$", page, re.MULTILINE)
    assert {event: (level, set(re.findall(r"`(\w+)`", fields))) for event, level, fields in rows} == written, "docs/reference/log-fields.md"
    assert len(rows) == len(written)

"""What is told when: counters, log lines, and `changed`."""

import dataclasses
import json
import os
from pathlib import Path

from tests.identity.room import Room

from robin.identity.bulletin import Bulletin
from robin.model.secret import Secret
from robin.telemetry.logs import EventLog
from robin.telemetry.writer import LineWriter
from robin.testing.tokens import make_token
from robin.wire.jose import TokenRules, inspect_token


def test_a_wrong_audience_is_an_error_once_per_token_and_then_each_minute() -> None:
    room = Room()
    bulletin = Bulletin(room.surroundings())

    def fail(about: bytes) -> None:
        bulletin.failed("bad_aud", "audience_mismatch", "bad_aud: other; fix", 0.0, about=about)

    for _ in range(10):
        fail(b"one")
    assert room.log.count("identity_misconfigured") == 1
    fail(b"two")
    assert room.log.count("identity_misconfigured") == 2
    room.clock.advance(59)
    fail(b"two")
    assert room.log.count("identity_misconfigured") == 2
    room.clock.advance(1)
    fail(b"two")
    assert room.log.count("identity_misconfigured") == 3
    assert room.metrics.refreshes == {("error", "bad_aud"): 13}
    assert {level for level, _event, _fields in room.log.lines} == {"error"}


def test_other_failures_are_warnings_with_a_code_for_the_limit_of_the_log() -> None:
    room = Room()
    Bulletin(room.surroundings()).failed("Unavailable", "identity_unavailable", "unavailable: no; fix", 0.5)
    assert room.log.lines == [
        (
            "warning",
            "identity_refresh_failed",
            {"code": "Unavailable", "source": "test", "fault": "identity_unavailable", "detail": "unavailable: no; fix"},
        )
    ]
    assert room.metrics.fetches["error"].total == 0.5


def test_readiness_is_told_when_it_turns() -> None:
    room = Room()
    bulletin = Bulletin(room.surroundings())
    token = inspect_token(Secret(make_token(expires_at=room.clock.wall() + 60)), TokenRules(), now=room.clock.wall())
    bulletin.standing(usable=False, fault="identity_unavailable")
    assert room.changes == 0
    bulletin.renewed(token, "ok", 0.001)
    assert (room.changes, room.metrics.ready, room.metrics.expires_at) == (1, True, token.expires_at)
    bulletin.standing(usable=True, fault="")
    assert room.changes == 1
    bulletin.standing(usable=False, fault="identity_expired")
    bulletin.standing(usable=False, fault="identity_expired")
    assert (room.changes, room.metrics.ready) == (2, False)
    assert room.log.lines[-1] == ("error", "identity_lost", {"source": "test", "fault": "identity_expired"})
    bulletin.standing(usable=True, fault="")
    assert (room.changes, room.log.count("identity_ready")) == (3, 1)


def test_each_loss_of_one_minute_is_written_so_that_the_last_word_of_the_log_is_true(tmp_path: Path) -> None:
    room, path = Room(), tmp_path / "lines"
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT)
    writer = LineWriter(descriptor)
    log = EventLog(writer, level="info", style="json", wall=room.clock.wall, monotonic=room.clock.monotonic)
    bulletin = Bulletin(dataclasses.replace(room.surroundings(), log=log))
    bulletin.usable = True
    for usable in (False, True, False):
        bulletin.standing(usable=usable, fault="" if usable else "identity_expired")
        room.clock.advance(1)
    writer.close()
    os.close(descriptor)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(line["event"], line.get("fault")) for line in lines] == [
        ("identity_lost", "identity_expired"),
        ("identity_ready", None),
        ("identity_lost", "identity_expired"),
    ]


def test_a_crash_is_told_by_type_and_stack_without_its_text() -> None:
    room = Room()
    try:
        raise ValueError("eyJ.secret.token")
    except ValueError as error:
        Bulletin(room.surroundings()).crashed("the identity source", error)
    assert room.log.codes("identity_crashed") == ["ValueError"]
    assert "test_bulletin.py" in room.log.lines[0][2]["stack"]
    assert "secret" not in repr(room.log.lines)

"""LiveView: a line for each thing that happens, few lines however much happens, and nothing from a request can drive the terminal."""

import io

import pytest

from robin.cli.live_view import LINES_A_SECOND, LiveView, printable
from robin.testing.demo_broker import JudgedRequest
from robin.testing.demonstration import LogLine, SidecarResponse, TokenIssued
from robin.testing.manual_clock import ManualClock


class Screen:
    """A view, what it wrote, and its clock."""

    def __init__(self, *, live: bool = False, colour: bool = False, out: io.StringIO | None = None) -> None:
        self.clock = ManualClock()
        self.out = out or io.StringIO()
        self.gone = 0
        self.view = LiveView(self.out, clock=self.clock, live=live, colour=colour, width=60, on_gone=self.left)
        self.view.begin()

    def left(self) -> None:
        self.gone += 1

    @property
    def lines(self) -> list[str]:
        """What was written, without the time of day."""
        return [line[10:] if line[2:3] == ":" else line for line in self.out.getvalue().splitlines()]


def judged(target: str = "/hello", reason: str | None = None) -> JudgedRequest:
    claims = {} if reason else {"sub": "me"}
    return JudgedRequest(
        method="GET", target=target, status=401 if reason else 200, reason=reason, fingerprint="abcdef012345", claims=claims
    )


def rotated(screen: Screen, number: int = 1) -> TokenIssued:
    return TokenIssued(number=number, fingerprint="abcdef012345", expires_at=screen.clock.wall() + 40)


def test_each_happening_is_one_line():
    screen = Screen()
    screen.view.on_event(rotated(screen))
    screen.view.on_event(judged())
    screen.view.on_event(judged(reason="expired"))
    screen.view.on_event(SidecarResponse(method="GET", path="/x", status=421, outcome="host_not_allowed"))
    screen.view.on_event(SidecarResponse(method=None, path=None, status=None, outcome="client_closed"))
    screen.view.on_event(LogLine(level="warning", text="unsafe"))
    assert screen.lines == [
        "token 1     abcdef012345  new identity token, valid for 40 s",
        "200         abcdef012345  GET /hello  identity accepted, me",
        "401         abcdef012345  GET /hello  refused by the broker: expired",
        "421         ------------  GET /x  ended by the sidecar: host_not_allowed",
        "            ------------  ? ?  ended by the sidecar: client_closed",
        "warning     unsafe",
    ]


def test_what_happens_before_begin_is_shown_after_it():
    screen = Screen()
    out = io.StringIO()
    view = LiveView(out, clock=screen.clock, live=False, colour=False, on_gone=screen.left)
    view.on_event(judged())
    assert out.getvalue() == ""
    view.begin()
    assert "GET /hello" in out.getvalue()


def test_what_was_held_back_is_told_when_the_view_closes():
    out = io.StringIO()
    view = LiveView(out, clock=ManualClock(), live=False, colour=False, on_gone=list)
    view.on_event(LogLine(level="error", text="it broke"))
    view.close()
    assert "it broke" in out.getvalue()


def test_a_flood_is_a_few_lines_and_a_number():
    screen = Screen()
    for _ in range(1000):
        screen.view.on_event(judged())
    assert len(screen.lines) == LINES_A_SECOND
    screen.clock.advance(1)
    screen.view.tick()
    assert screen.lines[-1] == f"...         {1000 - LINES_A_SECOND} more requests in that second"
    screen.view.on_event(judged())
    assert screen.lines[-1].startswith("200")


def test_closing_tells_what_was_left_out():
    screen = Screen()
    for _ in range(LINES_A_SECOND + 3):
        screen.view.on_event(judged())
    screen.view.close()
    assert screen.lines[-1] == "...         3 more requests in that second"


@pytest.mark.parametrize("event", [judged("/\x1b[2J\r\n\x07é\x9b"), LogLine(level="error", text="\x1b[2J\x9b")])
def test_nothing_from_outside_can_drive_the_terminal(event):
    screen = Screen()
    screen.view.on_event(event)
    (line,) = screen.out.getvalue().splitlines()
    assert line.isprintable()
    assert "\\x1b[2J" in line


def test_printable_cuts_what_is_long():
    assert printable("a" * 10, 10) == "a" * 10
    assert printable("a" * 11, 10) == "aaaaaaa..."
    assert printable("\x00" * 100, 10) == "\\x00\\x0..."


def test_a_pipe_gets_no_status_line_and_no_control_bytes():
    screen = Screen()
    screen.view.on_event(rotated(screen))
    screen.view.tick()
    screen.view.on_event(judged())
    screen.view.close()
    assert all(line.isprintable() for line in screen.out.getvalue().splitlines())
    assert len(screen.lines) == 2


def test_a_terminal_has_one_status_line_that_moves_below_the_events():
    screen = Screen(live=True)
    screen.view.on_event(rotated(screen))
    screen.view.on_event(judged())
    screen.view.on_event(judged(reason="expired"))
    screen.view.tick()
    status = "token abcdef012345 expires in 40 s | 1 injected | 1 refused"
    assert screen.out.getvalue().endswith(f"\r\x1b[2K{status}")
    before = screen.out.getvalue()
    screen.view.tick()
    assert screen.out.getvalue() == before
    screen.clock.advance(2)
    screen.view.tick()
    assert screen.out.getvalue() == before + "\r\x1b[2K" + status.replace("40", "38")
    screen.view.say("ended")
    assert screen.out.getvalue().endswith("\r\x1b[2Kended\n")


def test_the_status_line_never_wraps():
    screen = Screen(live=True)
    screen.view.on_event(rotated(screen))
    for _ in range(1234567 % 1000):
        screen.view.on_event(judged())
    screen.view.tick()
    assert len(screen.out.getvalue().rpartition("\x1b[2K")[2]) <= 59


def test_colour_is_only_where_it_is_wanted():
    plain, coloured = Screen(), Screen(colour=True)
    for screen in (plain, coloured):
        screen.view.on_event(judged())
    assert "\x1b[32m" in coloured.out.getvalue()
    assert "\x1b" not in plain.out.getvalue()


def test_a_reader_that_left_is_told_once_and_written_to_no_more():
    class Broken(io.StringIO):
        writes = 0

        def write(self, text: str) -> int:
            self.writes += 1
            raise BrokenPipeError

    out = Broken()
    screen = Screen(out=out)
    screen.view.on_event(judged())
    screen.view.on_event(judged())
    assert (screen.gone, out.writes) == (1, 1)

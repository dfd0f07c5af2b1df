"""What `robin up` shows while it runs: a line for each rotation and each request, and on a terminal one status line below them.

At most LINES_A_SECOND requests are shown singly; the rest of that second is shown as one number. Whatever comes from a request or a log is
made printable first, so that it cannot drive the terminal. When the reader has gone, `on_gone` is called and nothing is written again.
"""

import time
from collections.abc import Callable
from typing import TextIO

from robin.testing.demo_broker import JudgedRequest
from robin.testing.demonstration import DemoEvent, SidecarResponse, TokenIssued
from robin.transport.clock import Clock

LINES_A_SECOND = 8
TEXT_LIMIT = 60
_CLEAR = "\r\x1b[2K"
_STYLES = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33", "cyan": "36"}


class LiveView:
    """Writes to `out`. `live`: a terminal, with a status line that `tick` keeps; `colour`: with ANSI styles."""

    def __init__(self, out: TextIO, *, clock: Clock, live: bool, colour: bool, width: int = 80, on_gone: Callable[[], None]) -> None:
        self._out = out
        self._clock = clock
        self._live = live
        self._colour = colour
        self._width = width
        self._on_gone = on_gone
        self._gone = False
        self._status: str | None = None  # what the status line shows now; None when there is none
        self._second = 0
        self._shown = 0
        self._unshown = 0
        self._newest: TokenIssued | None = None
        self._injected = 0
        self._refused = 0
        self._held: list[DemoEvent] | None = []

    def say(self, text: str = "") -> None:
        """One line as it is."""
        self._write(("" if self._status is None else _CLEAR) + text + "\n")
        self._status = None

    def begin(self) -> None:
        """Show the events so far, and from now on each event as it comes."""
        held, self._held = self._held or [], None
        for event in held:
            self.on_event(event)

    def on_event(self, event: DemoEvent) -> None:
        """One event of the demonstration; held back until `begin`."""
        if self._held is not None:
            self._held.append(event)
        elif isinstance(event, TokenIssued):
            self._newest = event
            valid = f"valid for {event.expires_at - self._clock.wall():.0f} s"
            self._event(self.style("cyan", f"token {event.number:<4}"), f"{event.fingerprint}  new identity token, {valid}")
        elif isinstance(event, JudgedRequest | SidecarResponse):
            self._request(event)
        else:
            self._event(self.style("yellow", f"{event.level:<10}"), printable(event.text, 3 * TEXT_LIMIT))

    def tick(self) -> None:
        """Call it a few times a second: it shows how many were left out, and renews the status line."""
        self._tell_unshown()
        if self._live and self._newest is not None:
            left_s = max(0.0, self._newest.expires_at - self._clock.wall())
            text = f"token {self._newest.fingerprint} expires in {left_s:.0f} s | {self._injected} injected | {self._refused} refused"
            if text != self._status:
                self._write(_CLEAR + self.style("dim", text[: self._width - 1]))
                self._status = text

    def close(self) -> None:
        """Show what was held back or left out, and remove the status line."""
        self.begin()
        self._tell_unshown(now=True)
        if self._status is not None:
            self._write(_CLEAR)
            self._status = None

    def style(self, name: str, text: str) -> str:
        """`text` in a style, where styles are wanted."""
        return f"\x1b[{_STYLES[name]}m{text}\x1b[0m" if self._colour else text

    def _request(self, event: JudgedRequest | SidecarResponse) -> None:
        accepted = isinstance(event, JudgedRequest) and event.reason is None
        self._injected += accepted
        self._refused += not accepted
        self._tell_unshown()
        if self._shown >= LINES_A_SECOND:
            self._unshown += 1
            return
        self._shown += 1
        if isinstance(event, JudgedRequest):
            asked = f"{event.method} {event.target}"
            outcome = f"identity accepted, {event.claims.get('sub')}" if accepted else f"refused by the broker: {event.reason}"
        else:
            asked = f"{event.method or '?'} {event.path or '?'}"
            outcome = f"ended by the sidecar: {event.outcome}"
        fingerprint = event.fingerprint if isinstance(event, JudgedRequest) and event.fingerprint else "-" * 12
        status = "   " if event.status is None else str(event.status)
        text = f"{fingerprint}  {self.style('bold', printable(asked, TEXT_LIMIT))}  {printable(outcome, 2 * TEXT_LIMIT)}"
        self._event(self.style("green" if accepted else "red", f"{status:<10}"), text)

    def _tell_unshown(self, *, now: bool = False) -> None:
        """At the end of a second that had more requests than lines, say how many more."""
        second = int(self._clock.monotonic())
        if second == self._second and not now:
            return
        self._second, self._shown = second, 0
        if self._unshown:
            unshown, self._unshown = self._unshown, 0
            self._event(f"{'...':<10}", f"{unshown} more requests in that second")

    def _event(self, label: str, text: str) -> None:
        stamp = time.strftime("%H:%M:%S", time.localtime(self._clock.wall()))
        self.say(f"{self.style('dim', stamp)}  {label}  {text}")

    def _write(self, text: str) -> None:
        if self._gone:
            return
        try:
            self._out.write(text)
            self._out.flush()
        except OSError:  # the reader of a pipe has left, or the terminal is gone
            self._gone = True
            self._on_gone()


def printable(text: str, limit: int) -> str:
    """`text` without anything that could drive a terminal, cut to `limit` characters."""
    safe = "".join(letter if letter.isprintable() else f"\\x{ord(letter):02x}" for letter in text[: limit + 1])
    return safe if len(safe) <= limit else safe[: limit - 3] + "..."

"""`robin wait egress`: hold a pod back until its egress is closed, proven against the gateway's canary.

One round: the gateway says that its canary is up; every direct connection fails; and a later look of the gateway, begun after the first
one, still finds the canary up, since a dead canary proves nothing. `hold` such rounds in a row are enforcement.
"""

import argparse
import ssl
import sys
import time
from collections.abc import Callable
from typing import Final

from robin.cli.enforcement import (
    Document,
    GatewayPlace,
    GatewayReader,
    GatewayUnreachable,
    Place,
    Reach,
    gateway_place,
    shown_place,
    try_all,
)
from robin.transport.clock import Clock
from robin.transport.tls import TlsFileError, load_roots, new_context

GATEWAY_UNREACHABLE: Final = 3
NOT_ENFORCED: Final = 4
NOT_PROVEN: Final = 5
CONFIRM_S: Final = 4.0
"""How long a round that has begun may wait for the gateway's next look at its canary, whatever is left of the time."""
_POLL_S: Final = 0.25


class _Unproven(Exception):
    """A round failed: the exit code that it would mean, and why."""

    def __init__(self, code: int, why: str) -> None:
        super().__init__(why)
        self.code = code


def wait_egress(args: argparse.Namespace, clock: Clock) -> int:
    """0 enforced, 2 usage, 3 the gateway is unreachable, 4 a forbidden place answered, 5 the canary is down: nothing is proven."""
    place = None if args.gateway is None else gateway_place(args)
    if place is None:
        print("robin: give --gateway HOST:PORT and --ca-file FILE; without TLS --gateway http://HOST:PORT alone", file=sys.stderr)
        return 2
    try:
        context = None if place.ca_file is None else trusting(place.ca_file)
    except (TlsFileError, OSError) as error:
        print(f"robin: --ca-file {place.ca_file}: {error}", file=sys.stderr)
        return 2
    reader = GatewayReader(place, clock, context)
    try:
        code, said = prove(reader, place, tuple(args.forbid), clock, hold=args.hold, within_s=args.timeout, waiting=_show_waiting)
    finally:
        reader.close()
    if code == 0:
        print(said)
    else:
        print(f"robin: egress is not proven to be closed: {said}", file=sys.stderr)
    return code


def _show_waiting(why: str) -> None:
    print(f"robin: waiting: {why}", file=sys.stderr)


def prove(
    reader: GatewayReader,
    place: GatewayPlace,
    forbidden: tuple[Place, ...],
    clock: Clock,
    *,
    hold: int,
    within_s: float,
    confirm_s: float = CONFIRM_S,
    waiting: Callable[[str], None] = lambda _: None,
) -> tuple[int, str]:
    """The exit code, and what was found; `waiting` is called with each new reason to wait. `within_s` 0: one round."""
    until = clock.monotonic() + within_s
    return _Wait(reader, place, forbidden, clock, hold=hold, until=until, confirm_s=confirm_s, waiting=waiting).run()


def trusting(ca_file: str) -> ssl.SSLContext:
    """A context that trusts this CA alone. Raises TlsFileError, OSError."""
    context = new_context(ssl.PROTOCOL_TLS_CLIENT)
    load_roots(context, ca_file)
    return context


class _Wait:
    """The rounds."""

    def __init__(
        self,
        reader: GatewayReader,
        place: GatewayPlace,
        forbidden: tuple[Place, ...],
        clock: Clock,
        *,
        hold: int,
        until: float,
        confirm_s: float,
        waiting: Callable[[str], None],
    ) -> None:
        self._reader = reader
        self._place = place
        self._forbidden = forbidden
        self._clock = clock
        self._hold = hold
        self._until = until
        self._confirm_s = confirm_s
        self._waiting = waiting
        self._last: _Unproven | None = None

    def run(self) -> tuple[int, str]:
        """The exit code, and what was found."""
        rounds = 0
        while True:
            try:
                targets = self._round()
                rounds += 1
                if rounds >= self._hold:
                    listed = ", ".join(map(shown_place, targets))
                    return 0, f"egress is closed: {self._place} is reached, and none of {listed} directly, {rounds} times in a row"
            except _Unproven as unproven:
                rounds = 0
                if self._last is None or str(self._last) != str(unproven):
                    self._waiting(str(unproven))
                self._last = unproven
            left_s = self._until - self._clock.monotonic()
            if left_s <= 0:
                return self._give_up(rounds)
            time.sleep(min(_POLL_S, left_s))

    def _give_up(self, rounds: int) -> tuple[int, str]:
        last = self._last or _Unproven(NOT_PROVEN, f"only {rounds} of {self._hold} rounds took place; give a longer --timeout")
        return last.code, str(last)

    def _round(self) -> list[Place]:
        """What could not be reached, all of it. Raises _Unproven."""
        before = self._read()
        targets = [*(before.canary or ()), *self._forbidden]
        outcomes = try_all(targets, self._clock)
        answered = [shown_place(place) for place, reach in outcomes.items() if reach is Reach.OPEN]
        if answered:
            raise _Unproven(NOT_ENFORCED, f"{', '.join(answered)} answered directly: no policy holds this pod's egress back")
        untried = [shown_place(place) for place, reach in outcomes.items() if reach is Reach.UNKNOWN]
        if untried:
            raise _Unproven(NOT_PROVEN, f"this machine could not try {', '.join(untried)}")
        self._confirm(before)
        return list(outcomes)

    def _confirm(self, before: Document) -> None:
        """Wait for a later look of the same gateway at its canary. Raises _Unproven."""
        connections = self._reader.connections
        until = max(self._until, self._clock.monotonic() + self._confirm_s)
        while True:
            after = self._read()
            if self._reader.connections != connections:
                raise _Unproven(NOT_PROVEN, "the connection to the gateway ended within a round")
            if after.canary != before.canary:
                raise _Unproven(NOT_PROVEN, "the addresses of the canary changed within a round")
            if after.checked_at != before.checked_at:
                return
            left_s = until - self._clock.monotonic()
            if left_s <= 0:
                raise _Unproven(NOT_PROVEN, "the gateway did not look at its canary again in time")
            time.sleep(min(_POLL_S, left_s))

    def _read(self) -> Document:
        """The document, with a canary that is up. Raises _Unproven."""
        try:
            document = self._reader.read()
        except GatewayUnreachable as error:
            fix = f"; {error.fix}, and no --ca-file" if error.fix else ""
            raise _Unproven(GATEWAY_UNREACHABLE, f"the gateway is not reached: {error}{fix}") from None
        if document.canary is None:
            raise _Unproven(NOT_PROVEN, "the gateway has no canary, so nothing can be proven; set gateway.canary")
        if not document.up:
            raise _Unproven(NOT_PROVEN, "the canary of the gateway is down, so nothing can be proven")
        return document

"""One question to the admin listener of a running Robin: direct, never through a proxy, bounded in time and size."""

import argparse
import errno
import http.client
import json
import socket
import sys
from dataclasses import dataclass
from typing import Any, NoReturn

from robin.cli.flags import given, refuse
from robin.config.addresses import parse_admin
from robin.config.load import environment, load_value
from robin.config.parse import InvalidValue
from robin.model.address import Address, TcpAddress, UnixAddress
from robin.transport.clock import SystemClock

ANSWER_BYTES = 65536
CALL_S = 2.0
_CLOCK = SystemClock()

# No listener, no socket file, or no such address family on this machine.
_NO_LISTENER = frozenset((errno.ECONNREFUSED, errno.ENOENT, errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT))

Place = TcpAddress | UnixAddress


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A response of the admin listener."""

    status: int
    body: bytes

    @property
    def readiness(self) -> bool:
        """Whether the body is that of a Robin's probe, and not of some other program's."""
        try:
            state = json.loads(self.body)
            return (*state, *state["identity"]) == ("status", "reasons", "identity", "source", "state", "expires_in_s")
        except (ValueError, TypeError, KeyError, RecursionError):
            return False

    @property
    def reasons(self) -> str:
        """The status and reasons of a probe's body, for people; empty when it is not one."""
        try:
            state = json.loads(self.body)
            return ascii(f"{state['status']} ({', '.join(state['reasons'])})").strip("'")[:300]
        except (ValueError, TypeError, KeyError, RecursionError):
            return ""


class Unanswered(Exception):
    """There was no response. `code`: the errno, None if there is none. `gone`: nothing listens there at all."""

    def __init__(self, place: str, why: str, code: int | None) -> None:
        super().__init__(f"no answer from {place}: {why}")
        self.code = code
        self.gone = code in _NO_LISTENER


class _Timed(socket.socket):
    """Reads until one deadline for all, whatever comes in between: who listens there may be a stranger."""

    deadline_at = 0.0

    def recv_into(self, *arguments: Any) -> int:
        left_s = self.deadline_at - _CLOCK.monotonic()
        if left_s <= 0:
            raise TimeoutError
        self.settimeout(left_s)
        return super().recv_into(*arguments)


class _Call(http.client.HTTPConnection):
    """HTTP over TCP or a Unix socket."""

    def __init__(self, place: Place, timeout_s: float) -> None:
        host = str(place) if isinstance(place, TcpAddress) else "localhost"
        super().__init__(host, timeout=timeout_s)
        self._place = place
        self._timeout_s = timeout_s

    def connect(self) -> None:
        place = self._place
        if isinstance(place, UnixAddress):
            family = socket.AF_UNIX
        else:
            family = socket.AF_INET6 if ":" in place.host else socket.AF_INET
        self.sock = _Timed(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        self.sock.deadline_at = _CLOCK.monotonic() + self._timeout_s
        self.sock.settimeout(self._timeout_s)
        self.sock.connect(place.path if isinstance(place, UnixAddress) else (place.host, place.port))


def add_admin(parser: argparse.ArgumentParser) -> None:
    """`--admin ADDR`, or as the sidecar has it, `--admin-addr`; and `--config` where the address may be."""
    parser.add_argument("--admin", "--admin-addr", metavar="ADDR", help="the admin address [ROBIN_ADMIN_ADDR, else :4001]")
    parser.add_argument("--config", dest="ROBIN_CONFIG", metavar="PATH", default=None, help="settings file to take ROBIN_ADMIN_ADDR from")


def admin_places(args: argparse.Namespace) -> tuple[Place, ...]:
    """Where to ask; `every interface` is asked on loopback. Exits 2 when there is no such place."""
    if args.admin is not None:
        try:
            addresses = parse_admin(args.admin)
        except InvalidValue as error:
            _refuse_usage(f"--admin: {error.what}; {error.fix}")
    else:
        addresses, errors = load_value("ROBIN_ADMIN_ADDR", given(args), environment())
        if errors:
            refuse(errors)
    places = tuple(place for address in addresses for place in dialled(address))
    if not places:
        _refuse_usage("there is no admin address to ask; name it, such as --admin 127.0.0.1:4001")
    return places


def dialled(address: Address) -> tuple[Place, ...]:
    """Where to connect to reach a listener at `address`; nowhere for a socket that systemd holds."""
    if isinstance(address, UnixAddress):
        return (address,)
    if not isinstance(address, TcpAddress):
        return ()
    if address.host == "":
        return (TcpAddress(host="127.0.0.1", port=address.port), TcpAddress(host="::1", port=address.port))
    return (address,)


def ask(places: tuple[Place, ...], method: str, path: str, *, timeout_s: float = CALL_S) -> Answer:
    """The answer of the first place that gives one. Raises Unanswered."""
    unanswered: list[Unanswered] = []
    for place in places:
        call = _Call(place, max(0.05, min(timeout_s, CALL_S)))
        try:
            call.request(method, path, headers={"Connection": "close"})
            response = call.getresponse()
            return Answer(status=response.status, body=response.read(ANSWER_BYTES))
        except (OSError, http.client.HTTPException) as error:
            code = error.errno if isinstance(error, OSError) else None
            why = error.strerror if isinstance(error, OSError) and error.strerror else type(error).__name__
            unanswered.append(Unanswered(str(place), why, code))
        finally:
            call.close()
    unanswered.sort(key=lambda one: one.gone)  # a listener that is silent explains more than one that is gone
    raise unanswered[0]


def _refuse_usage(message: str) -> NoReturn:
    print(f"robin: {message}", file=sys.stderr)
    raise SystemExit(2)

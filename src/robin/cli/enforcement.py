"""What a gateway says about its canary, and what can be reached directly: for `robin wait egress` and `robin doctor egress`.

Rules to keep: one connection to the gateway is used as long as it lasts, since another one may lead to another replica, whose last look at
the canary may be older; a failure of this machine is never taken for a closed network; all of it is bounded in time and size.
"""

import argparse
import contextlib
import errno
import json
import select
import socket
import ssl
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final

from robin.config.addresses import parse_host_port, parse_upstream
from robin.config.parse import InvalidValue
from robin.transport.clock import Clock

CALL_S: Final = 2.0
_HEAD_BYTES: Final = 16384
_BODY_BYTES: Final = 65536
_ADDRESSES_MAX: Final = 32
# The network, or a filter on the way or on this machine, did not let it through (nft: EPERM); or there is no such network here.
_CLOSED: Final = frozenset(
    {
        errno.ECONNREFUSED,
        errno.ECONNRESET,
        errno.EHOSTUNREACH,
        errno.ENETUNREACH,
        errno.ENETDOWN,
        errno.ETIMEDOUT,
        errno.EPERM,
        errno.EACCES,
        errno.EADDRNOTAVAIL,
        errno.EAFNOSUPPORT,
        errno.EHOSTDOWN,
        errno.ENOPROTOOPT,
        errno.EPROTO,
    }
)

# What OpenSSL makes of an answer in cleartext.
_NO_TLS: Final = frozenset({"WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "PACKET_LENGTH_TOO_LONG"})

Place = tuple[str, int]


class GatewayUnreachable(Exception):
    """The gateway did not give the document; the message says why, `fix` what helps, where that is known."""

    def __init__(self, why: str, fix: str = "") -> None:
        super().__init__(why)
        self.fix = fix


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayPlace:
    """Where the gateway is. `ca_file` None: without TLS."""

    host: str
    port: int
    ca_file: str | None

    def __str__(self) -> str:
        return shown_place((self.host, self.port))


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """`/.robin/enforcement`. `canary`: its addresses, None where the gateway has none. `ca`: SHA-256 of what signs leaves."""

    canary: tuple[Place, ...] | None
    up: bool
    checked_at: str | None
    ca: tuple[str, ...]


class Reach(Enum):
    """What came of a direct connection."""

    OPEN = "open"
    CLOSED = "closed"
    UNKNOWN = "unknown"  # this machine could not try


def shown_place(place: Place) -> str:
    """As it is written."""
    host, port = place
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def add_gateway(parser: argparse.ArgumentParser) -> None:
    """`--gateway`, `--ca-file` and `--forbid`."""
    parser.add_argument(
        "--gateway", type=_gateway, metavar="HOST:PORT", help="proxy listener of the gateway; http://HOST:PORT: without TLS"
    )
    parser.add_argument("--ca-file", metavar="FILE", help="CA of its certificate (PEM)")
    parser.add_argument(
        "--forbid", action="append", default=[], type=_forbidden, metavar="IP:PORT", help="must not be reachable either; may be repeated"
    )


def gateway_place(args: argparse.Namespace) -> GatewayPlace | None:
    """Where to ask, or None with its error printed by the caller: `--ca-file` and a URL without TLS exclude each other."""
    encrypted, host, port = args.gateway
    if encrypted != (args.ca_file is not None):
        return None
    return GatewayPlace(host=host, port=port, ca_file=args.ca_file)


def _gateway(text: str) -> tuple[bool, str, int]:
    try:
        if "://" not in text:
            return (True, *parse_host_port(text))
        url = parse_upstream(text)
    except InvalidValue as error:
        raise argparse.ArgumentTypeError(f"{error.what}: {error.fix}") from None
    if url.base_path:
        raise argparse.ArgumentTypeError("the gateway has no path: write HOST:PORT")
    return url.origin.tls, url.origin.host, url.origin.port


def _forbidden(text: str) -> Place:
    try:
        host, port = parse_host_port(text)
    except InvalidValue as error:
        raise argparse.ArgumentTypeError(f"{error.what}: {error.fix}") from None
    if not is_address(host):
        raise argparse.ArgumentTypeError(f"{text!a} is not IP:port: what a name resolves to would decide")
    return host, port


def is_address(host: str) -> bool:
    """Whether it is an IP address."""
    for family in (socket.AF_INET, socket.AF_INET6):
        with contextlib.suppress(OSError):
            socket.inet_pton(family, host)
            return True
    return False


class GatewayReader:
    """Reads the document, on one connection as long as it lasts. `connections` counts them."""

    def __init__(self, place: GatewayPlace, clock: Clock, context: ssl.SSLContext | None) -> None:
        """`context` None: without TLS."""
        self._place = place
        self._clock = clock
        self._context = context
        self._sock: socket.socket | None = None
        self._left = b""
        self.connections = 0

    def read(self) -> Document:
        """The document as it is now. Raises GatewayUnreachable."""
        deadline_at = self._clock.monotonic() + CALL_S
        try:
            if self._sock is None:
                self._open(deadline_at)
            return parse_document(self._ask(deadline_at))
        except (OSError, ValueError, RecursionError) as error:
            self.close()
            plain = isinstance(error, ssl.SSLError) and error.reason in _NO_TLS
            fix = f"it answers without TLS: write http://{self._place}" if plain else ""
            raise GatewayUnreachable(f"{self._place}: {_why(error)}", fix) from None

    def close(self) -> None:
        """Leave."""
        sock, self._sock, self._left = self._sock, None, b""
        if sock is not None:
            sock.close()

    def _open(self, deadline_at: float) -> None:
        found = lookup(self._place.host, self._place.port, deadline_at - self._clock.monotonic())
        error: OSError = OSError(errno.EADDRNOTAVAIL, "the name has no address")
        for place in found:
            try:
                sock = socket.create_connection(place, max(0.05, deadline_at - self._clock.monotonic()))
            except OSError as failed:
                error = failed
                continue
            try:
                if self._context is not None:
                    sock = self._context.wrap_socket(sock, server_hostname=self._place.host)
            except BaseException:
                sock.close()
                raise
            self._sock = sock
            self.connections += 1
            return
        raise error

    def _ask(self, deadline_at: float) -> bytes:
        """The body of the response. Raises OSError, ValueError."""
        assert self._sock is not None
        self._sock.sendall(f"GET /.robin/enforcement HTTP/1.1\r\nHost: {self._place}\r\n\r\n".encode("ascii"))
        while b"\r\n\r\n" not in self._left:
            self._receive(deadline_at, _HEAD_BYTES)
        head, _, self._left = self._left.partition(b"\r\n\r\n")
        lines = head.decode("latin-1").split("\r\n")
        status = lines[0].split(" ")[1:2]
        if not lines[0].startswith("HTTP/1.1 ") or status != ["200"]:
            raise ValueError(f"it answered {ascii(lines[0])[1:60]}; is this a proxy listener of `robin gateway`, and not a relay?")
        fields = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
        length = int(fields.get("content-length", ""))
        if not 0 <= length <= _BODY_BYTES:
            raise ValueError("the document is too large")
        while len(self._left) < length:
            self._receive(deadline_at, _BODY_BYTES)
        body, self._left = self._left[:length], self._left[length:]
        if fields.get("connection", "").lower() == "close":
            self.close()
        return body

    def _receive(self, deadline_at: float, limit: int) -> None:
        assert self._sock is not None
        left_s = deadline_at - self._clock.monotonic()
        if left_s <= 0:
            raise TimeoutError
        self._sock.settimeout(left_s)
        piece = self._sock.recv(8192)
        if not piece:
            raise ConnectionResetError(errno.ECONNRESET, "the connection ended")
        self._left += piece
        if len(self._left) > limit:
            raise ValueError("the response is too large")


def parse_document(body: bytes) -> Document:
    """Raises ValueError for anything else."""
    read: Any = json.loads(body)
    if not isinstance(read, Mapping) or "canary" not in read:
        raise ValueError("this is not the document of a gateway")
    listed = read.get("ca", [])
    ca = tuple(one for one in listed if isinstance(one, str)) if isinstance(listed, list) else ()
    part = read["canary"]
    if part is None:
        return Document(canary=None, up=False, checked_at=None, ca=ca)
    if not isinstance(part, Mapping) or not isinstance(part.get("addresses"), list) or not isinstance(part.get("up"), bool):
        raise ValueError("the canary of the document is malformed")  # noqa: TRY004 - what was read is wrong, not the call
    checked = part.get("checked_at")
    try:
        places = tuple(parse_host_port(str(one)) for one in part["addresses"][: _ADDRESSES_MAX + 1])
    except InvalidValue:
        places = ()
    if (
        len(places) > _ADDRESSES_MAX
        or not all(is_address(host) for host, _ in places)
        or (part["addresses"] and not places)
        or (part["up"] and not (places and isinstance(checked, str)))
    ):
        raise ValueError("the addresses of the canary are malformed")
    return Document(canary=places, up=part["up"], checked_at=checked if isinstance(checked, str) else None, ca=ca)


def lookup(host: str, port: int, within_s: float) -> list[Place]:
    """The addresses of a name, on a thread, since the resolver of the system has deadlines of its own. Raises OSError."""
    if is_address(host):
        return [(host, port)]
    found: list[Place] = []
    failed: list[OSError] = []

    def ask() -> None:
        try:
            for *_, place in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
                found.append((str(place[0]), port))
        except OSError as error:
            failed.append(error)

    thread = threading.Thread(target=ask, name="robin-resolve", daemon=True)
    thread.start()
    thread.join(max(0.05, within_s))
    if failed:
        raise failed[0]
    if thread.is_alive():
        raise TimeoutError("the name did not resolve in time")
    return list(dict.fromkeys(found))


def try_all(places: Sequence[Place], clock: Clock, *, within_s: float = CALL_S) -> dict[Place, Reach]:
    """Connect to each directly, all at once; nothing is sent, and what accepts is left at once."""
    outcomes: dict[Place, Reach] = {}
    open_: dict[int, tuple[socket.socket, Place]] = {}
    poll = select.poll()
    try:
        for place in dict.fromkeys(places):
            outcome, sock = _begin(place)
            if sock is None:
                outcomes[place] = outcome
            else:
                open_[sock.fileno()] = (sock, place)
                poll.register(sock, select.POLLOUT)
        deadline_at = clock.monotonic() + within_s
        while open_ and (left_s := deadline_at - clock.monotonic()) > 0:
            for fileno, _ in poll.poll(left_s * 1000):
                sock, place = open_.pop(fileno)
                poll.unregister(fileno)
                code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                outcomes[place] = _judge(code)
                sock.close()
        outcomes |= {place: Reach.CLOSED for _, place in open_.values()}
        return outcomes
    finally:
        for sock, _ in open_.values():
            sock.close()


def _begin(place: Place) -> tuple[Reach, socket.socket | None]:
    """A connection that is under way, or what came of it already."""
    family = socket.AF_INET6 if ":" in place[0] else socket.AF_INET
    try:
        sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    except OSError as error:
        return _judge(error.errno), None
    try:
        code = sock.connect_ex(place)
    except OSError as error:
        code = error.errno or errno.EIO
    if code == errno.EINPROGRESS:
        return Reach.UNKNOWN, sock
    sock.close()
    return _judge(code), None


def _judge(code: int | None) -> Reach:
    if not code:
        return Reach.OPEN
    return Reach.CLOSED if code in _CLOSED else Reach.UNKNOWN


def _why(error: Exception) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted: {error.verify_message}; is --ca-file its CA, and is the host one of its names?"
    if isinstance(error, ssl.SSLError):
        return f"TLS failed: {str(error.reason or 'closed').lower()}"
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, OSError):
        return str(error.strerror or type(error).__name__)
    return str(error)

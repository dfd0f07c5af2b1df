"""Run the canary of an egress gateway: a TCP listener that accepts and closes. What can connect to it is not held back by a policy."""

import argparse
import os
import selectors
import signal
import socket
import sys
from contextlib import ExitStack
from typing import Final

from robin.config.addresses import parse_listen
from robin.config.parse import InvalidValue
from robin.model.address import TcpAddress

_BACKLOG: Final = 128
_AT_ONCE: Final = 64


def configure(parser: argparse.ArgumentParser) -> None:
    """Where it listens."""
    parser.add_argument("--listen", type=_listen, default=":9099", metavar="ADDR", help="IP:port, or :port for every address [:9099]")


def _listen(text: str) -> tuple[TcpAddress, ...]:
    try:
        addresses = parse_listen(text)
    except InvalidValue as error:
        raise argparse.ArgumentTypeError(f"{error.what}: {error.fix}") from None
    places = tuple(address for address in addresses if isinstance(address, TcpAddress))
    if len(places) < len(addresses):
        raise argparse.ArgumentTypeError("the canary listens on TCP alone: write IP:port")
    return places


def run(args: argparse.Namespace) -> int:
    """0 ended by a signal, 2 usage, 3 cannot bind."""
    with ExitStack() as stack:
        selector = stack.enter_context(selectors.DefaultSelector())
        for place in args.listen:
            try:
                sock = stack.enter_context(_bind(place))
            except OSError as error:
                if place.best_effort:
                    continue
                print(f"robin: --listen: {place}: {error.strerror}", file=sys.stderr)
                return 3
            selector.register(sock, selectors.EVENT_READ)
            print(f"robin: the canary listens on {shown(sock)}", flush=True)
        wake = _signals(stack)
        selector.register(wake, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                if key.fileobj == wake:
                    return 0
                assert isinstance(key.fileobj, socket.socket)
                _accept(key.fileobj)


def _signals(stack: ExitStack) -> int:
    """A descriptor that can be read once a signal has come."""
    reader, writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    stack.callback(os.close, reader)
    stack.callback(os.close, writer)
    stack.callback(signal.set_wakeup_fd, signal.set_wakeup_fd(writer))
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    return reader


def _bind(place: TcpAddress) -> socket.socket:
    """Both families where no address is named and this machine has both. Raises OSError."""
    host = place.host
    if not host:
        both = socket.has_dualstack_ipv6()
        family = socket.AF_INET6 if both else socket.AF_INET
        return socket.create_server(("", place.port), family=family, backlog=_BACKLOG, dualstack_ipv6=both)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, place.port), family=family, backlog=_BACKLOG)


def shown(sock: socket.socket) -> str:
    """Where it is bound."""
    host, port = sock.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _accept(sock: socket.socket) -> None:
    """Accept what waits, and close it: nothing is read or written, so a peer can hold nothing here."""
    sock.setblocking(False)
    for _ in range(_AT_ONCE):
        try:
            peer, _address = sock.accept()
        except OSError:  # none waits; or the peer has left already, or there is no descriptor left for a moment
            return
        peer.close()

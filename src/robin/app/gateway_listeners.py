"""The listeners of the gateway, which live as long as the process: how each knows its callers, and its TLS."""

import socket
import ssl
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

from robin.app.gateway_generation import Generation
from robin.app.plane import Listener, Parts
from robin.model.address import UnixAddress
from robin.model.caller import Caller, ListenerRule
from robin.model.faults import Fault
from robin.planes.gateway.callers import TokenCallers, connection_caller
from robin.planes.gateway.enforcement import without_caller
from robin.planes.gateway.listener_tls import MintedTls, TlsOpener, certificate_caller
from robin.planes.gateway.reverse import RouteCallers
from robin.planes.gateway.settings import ListenerSettings
from robin.proxy.connection import serve_connection
from robin.proxy.engine import Authenticate, Engine, Policy
from robin.proxy.refusal import refuse_connection
from robin.transport.tls_server import ServerTls


def build_authenticate(listener: ListenerSettings, generation: Generation) -> Authenticate | None:
    """How the requests of a listener are authenticated; None: its connections are."""
    tokens: Authenticate | None = None
    reverse = listener.kind == "reverse"
    if listener.auth == "jwt":
        issuers = [(generation.settings.issuers[name], generation.verifiers[name]) for name in listener.issuers]
        tokens = TokenCallers(issuers, encrypted=listener.tls is not None, reverse=reverse).authenticate
    if reverse:
        return RouteCallers(generation.routes, tokens).authenticate
    return None if tokens is None else without_caller(tokens)


def policy_for(listener: ListenerSettings, generation: Generation) -> Policy:
    """What decides about the requests of a listener."""
    return generation.routes if listener.kind == "reverse" else generation.policy


class ProxyListener:
    """One listener with its engine. `use` makes it serve by a later generation; `refresh` looks at the files of its certificate."""

    def __init__(
        self, settings: ListenerSettings, engine: Engine, parts: Parts, generation: Generation, rejected: Callable[[str], None]
    ) -> None:
        """Raises TlsFileError, Fault."""
        self.engine = engine
        self._settings = settings
        self._files: ServerTls | None = None
        self._minted: MintedTls | None = None
        encrypted = settings.tls is not None
        refuse = partial(_refuse, engine, encrypted=encrypted)
        self._opener = self._build_opener(parts, generation, refuse, rejected)
        self._admission = parts.build_admission(
            connections=generation.settings.limits.connections,
            serve=partial(serve_listener, engine=engine, listener=settings, open_stream=self._opener),
            refuse=refuse,
        )
        self.listener = Listener(
            setting=f"gateway.listeners.{settings.name}",
            addresses=settings.addresses,
            rule=ListenerRule(
                unix=any(isinstance(address, UnixAddress) for address in settings.addresses),
                allow_uids=settings.uids if settings.auth == "unix" else None,
                beyond_loopback=settings.unsafe_open or settings.auth in {"jwt", "mtls"},
            ),
            take=self._admission.take,
        )

    def use(self, generation: Generation) -> None:
        """Serve the next request of each connection by this generation."""
        settings, engine = generation.settings, self.engine
        engine.authenticate = build_authenticate(self._settings, generation)
        engine.policy = policy_for(self._settings, generation)
        self._admission.connections = settings.limits.connections
        if self._opener is not None:
            self._opener.handshake_s = settings.tunnels.tls_s
        if self._minted is not None:
            assert generation.authority is not None
            self._minted.authority = generation.authority

    def refresh(self) -> None:
        """Load the certificate again if its files changed."""
        if self._files is not None:
            self._files.refresh()

    def _build_opener(
        self, parts: Parts, generation: Generation, refuse: Callable[[Caller, Fault], object], rejected: Callable[[str], None]
    ) -> TlsOpener | None:
        """What opens the TLS of a listener. Raises TlsFileError, Fault."""
        tls, mtls = self._settings.tls, self._settings.mtls
        if tls is None:
            return None
        client_ca_file = None if mtls is None else mtls.ca_file
        if tls.minted_names:
            assert generation.authority is not None
            self._minted = MintedTls(generation.authority, tls.minted_names, client_ca_file=client_ca_file, wall=parts.clock.wall)
            context = self._minted.context
        else:
            on_reload = partial(_on_reload, parts, self._settings.name)
            self._files = ServerTls(tls.cert_file, tls.key_file, on_reload, client_ca_file=client_ca_file)
            context = partial(_context_of, self._files)
        return TlsOpener(
            parts.loop,
            context,
            handshake_s=generation.settings.tunnels.tls_s,
            named=_as_it_is if mtls is None else partial(certificate_caller, settings=mtls),
            denied=refuse,
            rejected=rejected,
            wall=parts.clock.wall,
        )


def serve_listener(
    sock: socket.socket, caller: Caller, *, engine: Engine, listener: ListenerSettings, open_stream: TlsOpener | None
) -> Coroutine[Any, Any, None]:
    """Serve one connection. The evidence of the connection names its caller, unless each request does.

    It returns the coroutine of that: one of its own would be resumed with it at each wait.
    """
    if listener.auth in {"none", "unix"}:
        caller = connection_caller(caller, encrypted=listener.tls is not None)
    return serve_connection(sock, caller, engine, open_stream=open_stream)


def _refuse(engine: Engine, caller: Caller, fault: Fault, *, encrypted: bool) -> bytes:
    """A denied peer is closed without a response, and so is one that expects TLS; the limit of connections gets one."""
    octets = refuse_connection(engine, caller, fault)
    return b"" if encrypted or fault.code == "peer_denied" else octets


def _as_it_is(caller: Caller, _: bytes | None) -> Caller:
    return caller


def _context_of(files: ServerTls) -> ssl.SSLContext:
    return files.context


def _on_reload(parts: Parts, listener: str, result: str) -> None:
    parts.events.info("listener_certificate", listener=listener, detail=result)

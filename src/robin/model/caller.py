"""Who may open a downstream connection, who opened it, and how we know."""

import math
from dataclasses import dataclass
from enum import StrEnum


class Evidence(StrEnum):
    """How a caller is known. Admission notes it; the sidecar does not read it: its guards treat all callers alike, its record has the peer.

    It is for planes whose policy and record are about callers: one of an open listener is not to be taken for one on this machine.
    """

    LOOPBACK = "loopback"
    UNIX_PEER = "unix_peer"
    OPERATOR = "operator"  # a command that the operator runs, not a connection
    OPEN = "open"  # a listener that serves others than loopback
    JWT = "jwt"  # a token that an issuer of the settings signed
    MTLS = "mtls"  # a client certificate that was verified


@dataclass(frozen=True, slots=True, kw_only=True)
class ListenerRule:
    """Who may connect to one listener.

    The peer of a Unix socket is judged by the credentials that the kernel noted when it connected; `allow_uids` None: any local user. Both
    ends of a TCP connection must be loopback addresses, unless `beyond_loopback`. `unix`: only a Unix socket may serve as this listener.
    """

    unix: bool = False
    allow_uids: frozenset[int] | None = None
    beyond_loopback: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Connect:
    """The CONNECT that opened the connection on which a request arrives. `id` is that of its records; `scheme` is what is spoken inside."""

    id: str
    scheme: str
    host: str
    port: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """The caller of one downstream connection. `uid`, `gid` and `pid` are the kernel's word (SO_PEERCRED) on Unix sockets, else None.

    `id` is the name by which policies know it, empty where a plane has none; `issuer`, `pod` and `expires_at` (seconds since the epoch) are
    those of its token. `address` is that of the TCP peer. `exposed`: what it sends crosses a network in cleartext.
    `certificate` is the verified certificate of a TLS client in DER.
    """

    evidence: Evidence
    listener: str
    uid: int | None = None
    gid: int | None = None
    pid: int | None = None
    id: str = ""
    issuer: str = ""
    pod: str = ""
    address: str = ""
    expires_at: float = math.inf
    certificate: bytes | None = None
    exposed: bool = False
    connect: Connect | None = None

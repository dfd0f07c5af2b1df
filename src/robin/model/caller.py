"""Who opened the downstream connection, and how we know."""

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """The caller of one downstream connection. `uid`, `gid` and `pid` are the kernel's word (SO_PEERCRED) on Unix sockets, else None.

    `address` is the IP address and port of the peer where a listener notes it. `certificate` is the verified certificate of a TLS client
    in DER.
    """

    evidence: Evidence
    listener: str
    uid: int | None = None
    gid: int | None = None
    pid: int | None = None
    address: str = ""
    certificate: bytes | None = None

"""Who opened the downstream connection, and how we know."""

from dataclasses import dataclass
from enum import StrEnum


class Evidence(StrEnum):
    """How a caller is known."""

    LOOPBACK = "loopback"
    UNIX_PEER = "unix_peer"
    OPEN = "open"  # a non-loopback listener, switched on by ROBIN_UNSAFE_LISTEN


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """The caller of one downstream connection. `uid` and `pid` are the kernel's word (SO_PEERCRED) on Unix sockets, else None."""

    evidence: Evidence
    listener: str
    uid: int | None = None
    pid: int | None = None

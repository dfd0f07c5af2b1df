"""Where a plane accepts connections, and the upstream that it dials."""

from dataclasses import dataclass

from robin.model.address import Address
from robin.model.origin import UpstreamUrl


@dataclass(frozen=True, slots=True, kw_only=True)
class ListenerSettings:
    """`on_unix_socket`: `proxy` is one Unix socket (a path, or `systemd:NAME`) and callers are judged by SO_PEERCRED.

    `allow_uids` None: any local peer; (): no peer at all. `admin` (): there is no admin listener.
    """

    proxy: tuple[Address, ...]
    on_unix_socket: bool
    allow_uids: tuple[int, ...] | None
    admin: tuple[Address, ...]
    admin_quit: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class UpstreamSettings:
    """`ca_file` is a PEM bundle that replaces the system roots; None: the system roots."""

    url: UpstreamUrl
    ca_file: str | None

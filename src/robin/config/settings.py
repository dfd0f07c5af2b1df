"""Every setting of the sidecar as one frozen, validated value; whoever holds a Settings need not check anything again.

A field is its variable without `ROBIN_`, in lower case; durations end in `_s` (float seconds), sizes in `_bytes` (int).
`config/table.py` says what each means; `config/load.py` builds it. No field ever holds a token.
"""

from dataclasses import dataclass
from typing import Literal

from robin.identity.settings import FileIdentitySettings, IdentitySettings, JwtSvidSettings
from robin.model.address import Address, TcpAddress, UnixAddress
from robin.model.limits import Deadlines, Limits
from robin.model.message import RequiredField
from robin.model.origin import UpstreamUrl


@dataclass(frozen=True, slots=True, kw_only=True)
class IdentityPart:
    """The section Identity of the table: all that it takes to get a token."""

    token_source: Literal["file", "jwtsvid"]
    token_file: str
    token_format: Literal["jwt", "opaque"]
    token_min_validity_s: float
    token_file_grace_s: float  # 0: none
    audience: str | None  # always set for jwtsvid
    identity_wait_s: float
    spiffe_socket: UnixAddress | TcpAddress | None  # always set for jwtsvid; SPIFFE_ENDPOINT_SOCKET is already folded in
    spiffe_id: str | None
    svid_hint: str | None
    svid_refresh_before_s: float
    svid_fetch_timeout_s: float
    svid_on_denied: Literal["serve", "stop"]

    @property
    def identity(self) -> IdentitySettings:
        """The settings of the chosen identity source."""
        if self.token_source == "file":  # noqa: S105 - a word, not a token
            return FileIdentitySettings(
                token_file=self.token_file,
                token_format=self.token_format,
                audience=self.audience,
                min_validity_s=self.token_min_validity_s,
                grace_s=self.token_file_grace_s,
            )
        assert self.audience is not None
        assert self.spiffe_socket is not None
        return JwtSvidSettings(
            audience=self.audience,
            spiffe_socket=self.spiffe_socket,
            spiffe_id=self.spiffe_id,
            hint=self.svid_hint,
            min_validity_s=self.token_min_validity_s,
            refresh_before_s=self.svid_refresh_before_s,
            fetch_timeout_s=self.svid_fetch_timeout_s,
            wait_s=self.identity_wait_s,
            stop_when_denied=self.svid_on_denied == "stop",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings(IdentityPart):
    """What `robin sidecar` runs with (docs/reference/settings.md)."""

    # upstream
    upstream: UpstreamUrl
    upstream_ca_file: str | None  # PEM bundle that replaces the system roots
    upstream_max_connections: int
    upstream_queue_timeout_s: float  # 0: refuse at once
    upstream_connect_timeout_s: float
    upstream_response_timeout_s: float  # 0: none
    upstream_idle_timeout_s: float | None  # None: auto

    # listeners: LISTEN_ADDR or LISTEN_UDS, with the socket mode of UDS_MODE already in UnixAddress.mode
    listen: tuple[Address, ...]
    peercred: bool  # True: `listen` is ROBIN_LISTEN_UDS (a path or systemd:NAME) and callers are judged by SO_PEERCRED
    peercred_allow_uids: tuple[int, ...] | None  # None: any local peer; (): nobody
    admin: tuple[Address, ...]  # (): off
    admin_quit: bool

    # guards
    allowed_hosts: tuple[str, ...] | None  # lower case, IPv6 in brackets, no port; None: no Host guard (Unix listener, unset)
    allowed_origins: tuple[str, ...]
    require_header: RequiredField | None
    strip_headers: tuple[str, ...]  # lower case, `_` as `-`
    upgrade_protocols: tuple[str, ...]  # lower case

    # limits and deadlines
    max_head_size_bytes: int
    max_target_size_bytes: int
    max_fields: int
    max_connections: int
    header_timeout_s: float
    keepalive_timeout_s: float
    stream_idle_timeout_s: float  # 0: none

    # lifecycle
    drain_min_s: float
    drain_max_s: float
    startup_timeout_s: float  # 0: none
    workers: int

    # observability
    log_level: Literal["debug", "info", "warning", "error"]
    log_format: Literal["json", "console"]
    access_log: Literal["all", "errors", "off"]

    # unsafe switches
    unsafe_listen: bool
    unsafe_upstream_http: bool
    unsafe_any_host: bool

    # where the rest came from
    config: str | None

    @property
    def limits(self) -> Limits:
        """The engine's sizes and counts."""
        return Limits(
            head_bytes=self.max_head_size_bytes,
            target_bytes=self.max_target_size_bytes,
            fields=self.max_fields,
            connections=self.max_connections,
            upstream_connections=self.upstream_max_connections,
        )

    @property
    def deadlines(self) -> Deadlines:
        """The engine's times."""
        return Deadlines(
            head_s=self.header_timeout_s,
            keepalive_s=self.keepalive_timeout_s,
            stream_idle_s=self.stream_idle_timeout_s,
            response_s=self.upstream_response_timeout_s,
            connect_s=self.upstream_connect_timeout_s,
            queue_s=self.upstream_queue_timeout_s,
            upstream_idle_s=self.upstream_idle_timeout_s,
        )

    @property
    def unsafe_switches(self) -> tuple[str, ...]:
        """The unsafe switches in force, as the `switch` label of `robin_unsafe`: `listen`, `upstream_http`, `any_host`."""
        switches = (("listen", self.unsafe_listen), ("upstream_http", self.unsafe_upstream_http), ("any_host", self.unsafe_any_host))
        return tuple(name for name, on in switches if on)

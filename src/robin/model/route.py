"""What applies to the exchanges of one policy rule, as data: header rules, upgrades, deadlines, body mode, grant; and where they lead.

A Route is built at start or at reload and shared by every Permit of its rule. The engine reads it and never asks which plane built it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from robin.model.faults import Refusals
from robin.model.message import HeldBody, OutboundRequest
from robin.model.origin import Origin


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class HeaderRules:
    """Which fields are forwarded, besides what `wire` decides for every proxy. All names are canonical: lower case, `_` as `-`.

    `strip` and `strip_prefixes`: removed from requests, and from trailers in both directions. `allow`: the only request fields forwarded,
    None: all others. `strip_response` and `allow_response` are the same for responses. `via`: how this proxy names itself in
    Via, `1.1 <pseudonym>` (RFC 9110 section 7.6.3); empty: no Via is written. Compared by identity.
    """

    via: bytes
    strip: frozenset[bytes] = frozenset()
    strip_prefixes: tuple[bytes, ...] = ()
    allow: frozenset[bytes] | None = None
    strip_response: frozenset[bytes] = frozenset()
    allow_response: frozenset[bytes] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """The request body is received whole, at most `limit_bytes`, and digested before the request is sent; it can be sent again."""

    limit_bytes: int


STREAMED: Final = None
"""The request body is relayed as it arrives."""

BodyMode = Held | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteDeadlines:
    """Seconds; infinity means none. `response_s`: request sent to final response head; `stream_idle_s`: no byte of a body or tunnel."""

    response_s: float = 900.0
    stream_idle_s: float = 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsProfile:
    """How an upstream connection is secured: TLS 1.2 or newer, chain and name verified. `ca_file` replaces the system roots.

    `certificate_file` and `key_file` name a client certificate (PEM), if the origin asks for one. `extra_ca_files` are trusted besides the
    system roots, or alone where not `system_roots`. `minimum` is the lowest version: `1.2` or `1.3`.
    """

    ca_file: str | None = None
    extra_ca_files: tuple[str, ...] = ()
    system_roots: bool = True
    minimum: str = "1.2"
    certificate_file: str | None = None
    key_file: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """Where a permitted request goes, and the key of its pooled connections: origin, TLS profile, policy generation, private networks.

    `private` are the networks (CIDR) beyond the public ones in which its address may be.
    """

    origin: Origin
    tls: TlsProfile | None = None
    generation: int = 0
    private: tuple[str, ...] = ()

    def __hash__(self) -> int:
        return hash(self.origin.authority)  # bytes cache their hash; equality still compares everything


Signer = Callable[[OutboundRequest, HeldBody | None], OutboundRequest]
"""Adds the fields of a signature to an outbound head; the body is there only where the route holds it. Pure, but for its keys."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Route:
    """One rule's treatment of its exchanges.

    `upgrades`: the (method, protocol) pairs that may switch protocols, the protocol in lower case. `base_path` stands before the caller's
    target. `grant` names the credentials. `repeat_on_401`: a request that can be repeated is sent once more with a fresh credential.
    `sign` changes the outbound head as the last step, once per attempt. `refusals` None: those of the plane.
    """

    name: str
    header_rules: HeaderRules
    upgrades: frozenset[tuple[str, bytes]] = frozenset()
    deadlines: RouteDeadlines = RouteDeadlines()
    body: BodyMode = STREAMED
    base_path: bytes = b""
    grant: str = ""
    repeat_on_401: bool = False
    sign: Signer | None = None
    refusals: Refusals | None = None

    def permits_upgrade(self, method: str, protocol: bytes | None) -> bool:
        """Whether a request of `method` may switch to `protocol`."""
        return protocol is not None and (method, protocol) in self.upgrades

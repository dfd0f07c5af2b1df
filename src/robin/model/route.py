"""What applies to the exchanges of one policy rule, as data: header rules, upgrades, deadlines, body mode, grant; and where they lead.

A Route is built at start or at reload and shared by every Permit of its rule. The engine reads it and never asks which plane built it.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from robin.model.credential import Credential
from robin.model.faults import Refusals
from robin.model.message import Framing, HeldBody, OutboundRequest, RequestHead, ResponseHead
from robin.model.origin import Origin


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class HeaderRules:
    """Which fields are forwarded, besides what `wire` decides for every proxy. All names are canonical: lower case, `_` as `-`.

    `strip` and `strip_prefixes`: removed from requests, and from trailers in both directions. `allow`: the only request fields forwarded,
    None: all others. `strip_response` and `allow_response` are the same for responses. `via`: how this proxy names itself in
    Via, `1.1 <pseudonym>` (RFC 9110 section 7.6.3); empty: no Via is written. `pass_authorization`: the caller's Authorization is for the
    origin and not for us. Compared by identity.
    """

    via: bytes
    strip: frozenset[bytes] = frozenset()
    strip_prefixes: tuple[bytes, ...] = ()
    allow: frozenset[bytes] | None = None
    strip_response: frozenset[bytes] = frozenset()
    allow_response: frozenset[bytes] | None = None
    pass_authorization: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """The request body is received whole, at most `limit_bytes`, and digested before the request is sent; it can be sent again.

    `or_stream`: a body that is larger, or does not announce its length, is relayed as it arrives instead of being refused. `within_s`:
    how long it may take in all. `too_large`: the code for one that is larger, if it has one of its own.
    """

    limit_bytes: int
    or_stream: bool = False
    within_s: float = math.inf
    too_large: str = ""

    def holds(self, head: RequestHead) -> bool:
        """Whether the body of this request is held."""
        return not self.or_stream or (head.framing == Framing.LENGTH and head.length <= self.limit_bytes)


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

    `private` are the networks (CIDR) beyond the public ones in which its address may be; of each group of `within` it must be in one.
    """

    origin: Origin
    tls: TlsProfile | None = None
    generation: int = 0
    private: tuple[str, ...] = ()
    within: tuple[tuple[str, ...], ...] = ()

    def __hash__(self) -> int:
        return hash(self.origin.authority)  # bytes cache their hash; equality still compares everything


AcceptResponse = Callable[[ResponseHead], bytes]
"""Looks at the head of a final response, or of a 101, before any of it is relayed. Returns whole lines of our own to add to it, or none.

Raises Fault for a response that the caller must not get.
"""

Signer = Callable[[OutboundRequest, HeldBody | None, Credential, float], OutboundRequest]
"""Adds the fields of a signature to an outbound head, with the keys of the credential and the wall clock.

The body is there only where the route holds it. Pure.
"""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Route:
    """One rule's treatment of its exchanges.

    `upgrades`: the (method, protocol) pairs that may switch protocols, the protocol in lower case. `base_path` stands before the caller's
    target. `grant` names the credentials. `rejects_with`: the status of a response that does not accept them, 407 from a parent proxy;
    what is written of 401 applies to it. `repeat_on_401`: a request that can be repeated is sent once more with a fresh credential,
    unless a Bearer challenge gives another reason than the token; `invalid_token_only`: and only if it gives this one.
    `sign` changes the outbound head as the last step, once per attempt. `refusals` None: those of the plane. `request_fields` and
    `response_fields` are whole lines of our own for the request and for the final response. `accept_response` None: all are relayed.
    `relays_interim`: responses below 200 go to the caller too.
    """

    name: str
    header_rules: HeaderRules
    upgrades: frozenset[tuple[str, bytes]] = frozenset()
    deadlines: RouteDeadlines = RouteDeadlines()
    body: BodyMode = STREAMED
    base_path: bytes = b""
    grant: str = ""
    rejects_with: int = 401
    repeat_on_401: bool = False
    invalid_token_only: bool = False
    sign: Signer | None = None
    refusals: Refusals | None = None
    request_fields: bytes = b""
    response_fields: bytes = b""
    accept_response: AcceptResponse | None = None
    relays_interim: bool = True

    def permits_upgrade(self, method: str, protocol: bytes | None) -> bool:
        """Whether a request of `method` may switch to `protocol`."""
        return protocol is not None and (method, protocol) in self.upgrades

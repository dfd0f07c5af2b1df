"""From a judged head to the bytes that are forwarded: strip first, inject after, framing written anew (RFC 9110 7.6).

`forwardable` is the one rule for what is forwarded: requests, responses and trailers. It sees names only, so what it decides for the
names of a head is kept as a template on the HeadShape. No template holds a value.
"""

import re
from enum import Enum
from typing import Final

from robin.model.credential import Credential
from robin.model.faults import Fault
from robin.model.message import Framing, HeldBody, OutboundRequest, RequiredField, canonical_name
from robin.model.route import HeaderRules, Route
from robin.model.secret import Secret
from robin.model.verdict import Permit
from robin.wire.framing import Trailer
from robin.wire.shape import HeadShape, ParsedRequest, ParsedResponse

DEFAULT_STRIP: Final = (
    "x-api-key",
    "api-key",
    "x-goog-api-key",
    "private-token",
    "x-vault-token",
    "x-warden-token",
    "x-warden-agent-token",
)
"""The usual fields for API keys."""

# Hop-by-hop, both ways (RFC 9110 7.6.1); Content-Length is written anew.
HOP_BY_HOP: Final = frozenset(
    b"connection proxy-connection keep-alive te trailer transfer-encoding upgrade proxy-authenticate http2-settings content-length".split()
)
# Never forwarded to an upstream as they came: judged, written anew or injected by us, or claims about the path that only a proxy may make.
OURS_UPSTREAM: Final = HOP_BY_HOP | frozenset(b"host via expect authorization proxy-authorization".split())
NEVER_UPSTREAM: Final = OURS_UPSTREAM | frozenset({b"forwarded", b"x-real-ip"})
_CLAIMS: Final = b"x-forwarded-"
_REDACTED: Final = b"[redacted]"
_TOKEN_OCTETS_MIN: Final = 8
NEVER_IN_TRAILERS: Final = frozenset(b"cookie set-cookie max-forwards cache-control range te age expires date location".split())
_NEVER_IN_TRAILERS_PREFIXES: Final = (b"content-", b"proxy-")

# A segment of one or two dots, as any common origin reads it: nginx decodes first, two in a row decode twice, IIS takes a backslash for a
# slash, Tomcat and Jetty take path parameters off, and for some the path ends at an encoded NUL, `?` or `#`.
_SLASH: Final = rb"(?:[/\\]|%(?:25)*(?:2f|5c))"
_DOT: Final = rb"(?:\.|%(?:25)*2e)"
_DOT_SEGMENT = re.compile(_SLASH + _DOT + rb"{1,2}(?:" + _SLASH + rb"|;|%(?:25)*(?:3b|00|3f|23)|$)", re.IGNORECASE)


def has_dot_segment(path: bytes) -> bool:
    """Whether an origin may read a segment of one or two dots in it."""
    return _DOT_SEGMENT.search(path) is not None


def header_rules(*, strip: tuple[str, ...], required: RequiredField | None, pseudonym: str) -> HeaderRules:
    """The rules of a reverse proxy. `strip` are field names; the `required` field is stripped too; `pseudonym` goes into Via."""
    names = {canonical_name(name.encode("ascii")) for name in strip}
    if required is not None:
        names.add(required.name)
    return HeaderRules(strip=frozenset(names), via=b"1.1 " + pseudonym.encode("ascii"))


class Direction(Enum):
    """Where a field is forwarded to."""

    UPSTREAM = "upstream"
    DOWNSTREAM = "downstream"


def forwardable(name: bytes, options: frozenset[bytes], rules: HeaderRules, direction: Direction, *, trailer: bool = False) -> bool:
    """Whether a field of this name is forwarded. `options` are those of Connection in the head of its message.

    Names and options are canonical: in lower case, and with `-` for `_`, as some servers read them.

    A trailer must also be one that a request could carry, in both directions: none that frames, routes, authenticates or sets a cookie.
    """
    if name in HOP_BY_HOP or name in options:
        return False
    if direction is Direction.UPSTREAM or trailer:
        if name == b"authorization" and rules.pass_authorization and not trailer:
            return name not in rules.strip
        if name in NEVER_UPSTREAM or name in rules.strip or name.startswith((_CLAIMS, *rules.strip_prefixes)):
            return False
        if trailer and (name in NEVER_IN_TRAILERS or name.startswith(_NEVER_IN_TRAILERS_PREFIXES)):
            return False
    if direction is Direction.UPSTREAM:
        return rules.allow is None or name in rules.allow
    return name not in rules.strip_response and (rules.allow_response is None or name in rules.allow_response)


_new: Final = tuple.__new__  # what OutboundRequest(...) calls, without a frame of Python between


def render(outbound: OutboundRequest) -> bytes:
    """The bytes of the head."""
    _, _, _, octets, secrets, end = outbound
    for secret in secrets:
        octets += secret.reveal()
    return octets + end


def signing_fields(outbound: OutboundRequest) -> list[tuple[bytes, bytes]]:
    """Canonical name and value of each field in order, the secret ones included: for a signer alone, never to be kept or shown."""
    lines = render(outbound)[:-4].split(b"\r\n")[1:]
    return [(canonical_name(name), value) for name, _, value in (line.partition(b": ") for line in lines)]


def forward_request(head: ParsedRequest, permit: Permit, credential: Credential, held: HeldBody | None = None) -> OutboundRequest:
    """The request head as the upstream gets it. `held` is a body that was received whole, None if it is streamed.

    Raises Fault `bad_request` for a dot segment under a base path.
    """
    route, endpoint, shape, values = permit.route, permit.endpoint, head.shape, head.field_values
    kept = head.forwarded
    if kept is not None and kept[0] is route and kept[1] is endpoint and permit.target is None and held is None:
        return _new(OutboundRequest, (head.method, kept[2], endpoint.origin.authority, kept[3], credential.fields, kept[4]))
    rules, target = route.header_rules, permit.target
    if target is None:
        target = route.base_path + head.target
        if route.base_path and _DOT_SEGMENT.search(head.path):
            raise Fault("bad_request", "dot_segment: a `.` or `..` segment could leave the base path of {upstream_url}")
    key = rules, head.connection_options
    template = shape.templates.get(key)
    if template is None:
        fields = _fields_template(shape, head.connection_options, rules, Direction.UPSTREAM)
        template = b"%b %b HTTP/1.1\r\nHost: %b\r\n" + fields, _via(rules, None) + b"\r\n"
        shape.keep_template(key, template)
    if head.max_forwards is not None and head.method == "OPTIONS":  # RFC 9110 7.6.2
        values = _one_hop_less(head)
    start = template[0] % (head.method.encode("ascii"), target, endpoint.origin.authority, *values)
    plain = head.framing == Framing.NONE and not shape.asks_for_more and not route.request_fields
    end = template[1] if plain else _own_fields(head, route, held)
    if permit.target is None and held is None:
        head.forwarded = route, endpoint, target, start, end
    return _new(OutboundRequest, (head.method, target, endpoint.origin.authority, start, credential.fields, end))


def _fields_template(shape: HeadShape, options: frozenset[bytes], rules: HeaderRules, direction: Direction) -> bytes:
    """`template % values` is the lines that are forwarded; `%.0b` consumes a value that is not."""
    return b"".join(
        spelled.replace(b"%", b"%%") + b": %b\r\n" if forwardable(name, options, rules, direction) else b"%.0b"
        for spelled, name in zip(shape.spelled, shape.names, strict=True)
    )


def _via(rules: HeaderRules, received: bytes | None) -> bytes:
    """The Via line, with what the caller's said before; empty where the rules have none."""
    if not rules.via:
        return b""
    return b"Via: %b, %b\r\n" % (received, rules.via) if received else b"Via: %b\r\n" % rules.via


def _own_fields(head: ParsedRequest, route: Route, held: HeldBody | None) -> bytes:
    """The fields of the route, Via, framing, and what ends at each hop and is asked for anew; then the empty line."""
    own = route.request_fields + _via(route.header_rules, head.via)
    if held is not None:
        if head.framing != Framing.NONE:
            own += b"Content-Length: %d\r\n" % len(held.octets)
    elif head.framing == Framing.LENGTH:
        own += b"Content-Length: %d\r\n" % head.length
    elif head.framing == Framing.CHUNKED:
        own += b"Transfer-Encoding: chunked\r\n"
    if head.accepts_trailers:
        own += b"TE: trailers\r\n"
    if head.expects_continue and held is None:
        own += b"Expect: 100-continue\r\n"
    if head.upgrade is not None and route.permits_upgrade(head.method, head.upgrade):
        own += b"Connection: Upgrade\r\nUpgrade: %b\r\n" % head.upgrade
    return own + b"\r\n"


def _one_hop_less(head: ParsedRequest) -> tuple[bytes, ...]:
    """The values with Max-Forwards counted down; what is not a number is forwarded as it came."""
    at = head.names.index(b"max-forwards")
    digits = head.field_values[at]
    if not digits.isdigit() or len(digits) > 9:
        return head.field_values
    return (*head.field_values[:at], b"%d" % max(0, int(digits) - 1), *head.field_values[at + 1 :])


def forward_response(
    response: ParsedResponse, *, rules: HeaderRules, minor: int, keep_alive: bool, chunked: bool, own: bytes = b""
) -> bytes:
    """The response head as the caller gets it. `own` are whole lines of our own.

    `minor` is the caller's HTTP/1 minor version; `chunked`: the body is forwarded in chunks; `keep_alive`: the connection stays open.
    """
    kept, form = response.forwarded, (minor, keep_alive, chunked)
    if kept is not None and kept[0] is rules and kept[1] == form:
        return kept[2] if not own else kept[2][:-2] + own + b"\r\n"
    shape = response.shape
    key = rules, response.connection_options
    template = shape.templates.get(key)
    if template is None:
        template = b"HTTP/1.1 %d %b\r\n" + _fields_template(shape, response.connection_options, rules, Direction.DOWNSTREAM), b""
        shape.keep_template(key, template)
    head = template[0] % (response.status, response.reason, *response.field_values)
    if chunked:
        head += b"Transfer-Encoding: chunked\r\n"
    elif response.length >= 0 and response.framing != Framing.CHUNKED and response.status >= 200 and response.status != 204:
        head += b"Content-Length: %d\r\n" % response.length
    if response.status >= 200:
        if not keep_alive:
            head += b"Connection: close\r\n"
        elif minor == 0:
            head += b"Connection: keep-alive\r\n"
    head += b"\r\n"
    response.forwarded = rules, form, head
    return head if not own else head[:-2] + own + b"\r\n"


def forward_interim(response: ParsedResponse, rules: HeaderRules, *, minor: int) -> bytes:
    """A 1xx as the caller gets it, without fields of our own; nothing for an HTTP/1.0 caller."""
    if minor == 0:
        return b""
    return forward_response(response, rules=rules, minor=1, keep_alive=True, chunked=False)


def redact_echo(response: ParsedResponse, tokens: tuple[Secret, ...]) -> bool:
    """Replace each value that holds one of the tokens of the request. Returns True if there was one."""
    found = False
    told = b"\n".join((response.reason, *response.field_values))  # one look for all: no value has a line end
    for token in tokens:
        octets = token.reveal()
        if octets in told and len(octets) >= _TOKEN_OCTETS_MIN:
            response.field_values = tuple([_REDACTED if octets in value else value for value in response.field_values])
            response.reason = response.reason.replace(octets, b"")
            response.forwarded = None  # a head that repeats is kept, and it may have been forwarded to others as it came
            found = True
    return found


def redact_trailers(trailers: list[Trailer], tokens: tuple[Secret, ...]) -> list[Trailer]:
    """The same for the fields behind a body."""
    telling = [octets for token in tokens if len(octets := token.reveal()) >= _TOKEN_OCTETS_MIN]
    return [(name, _REDACTED if any(octets in value for octets in telling) else value) for name, value in trailers]


def forward_switch(response: ParsedResponse, rules: HeaderRules, own: bytes = b"") -> bytes:
    """A good 101 as the caller gets it: its own hop-by-hop fields, and no others."""
    head = forward_response(response, rules=rules, minor=1, keep_alive=True, chunked=False, own=own)
    return head[:-2] + b"Connection: Upgrade\r\nUpgrade: %b\r\n\r\n" % (response.upgrade or b"")


def forward_trailers(trailers: list[Trailer], options: frozenset[bytes], rules: HeaderRules, direction: Direction) -> list[Trailer]:
    """The trailer fields that may follow a last chunk. `options` are those of Connection in the head."""
    return [(name, value) for name, value in trailers if forwardable(canonical_name(name), options, rules, direction, trailer=True)]

"""From a judged head to the bytes that go on: strip first, inject after, framing made anew (RFC 9110 7.6)."""

import re
from typing import Final

from robin.model.credential import Credential
from robin.model.faults import Fault
from robin.model.message import Field, Framing, RequestHead, RequestOutline, RequiredField, ResponseHead
from robin.model.route import HeaderRules
from robin.model.verdict import Permit
from robin.wire.fields import FOLD

DEFAULT_STRIP: Final = (
    "x-api-key",
    "api-key",
    "x-goog-api-key",
    "private-token",
    "x-vault-token",
    "x-warden-token",
    "x-warden-agent-token",
)

_NEVER_IN_TRAILERS: Final = frozenset(b"cookie set-cookie max-forwards cache-control range te age expires date location".split())
# A segment of one or two dots, as any common origin reads it: nginx decodes first, two in a row decode twice, IIS takes a backslash for a
# slash, Tomcat and Jetty take path parameters off, and for some the path ends at an encoded NUL, `?` or `#`.
_SLASH: Final = rb"(?:[/\\]|%(?:25)*(?:2f|5c))"
_DOT: Final = rb"(?:\.|%(?:25)*2e)"
_DOT_SEGMENT = re.compile(_SLASH + _DOT + rb"{1,2}(?:" + _SLASH + rb"|;|%(?:25)*(?:3b|00|3f|23)|$)", re.IGNORECASE)


def header_rules(*, strip: tuple[str, ...], required: RequiredField | None, pseudonym: str) -> HeaderRules:
    """The rules of a reverse proxy. `strip` are field names; the `required` field is stripped too; `pseudonym` goes into Via."""
    names = {name.encode("ascii").translate(FOLD) for name in strip}
    if required is not None:
        names.add(required.name)
    return HeaderRules(strip=frozenset(names), via=b"1.1 " + pseudonym.encode("ascii"))


def forward_request(head: RequestHead, permit: Permit, credential: Credential) -> bytes:
    """The request head as the origin sees it. Raises Fault `bad_request` for a dot segment under a base path.

    All but the credential is a pure function of head and permit, and is kept on the head for when it repeats.
    """
    kept = head.forwarded
    if kept is None or kept[0] is not permit:
        kept = head.forwarded = _rewrite(head, permit)
    octets = kept[1]
    for field in credential.fields:
        octets += field.reveal()
    return octets + kept[2]


class _Plan:
    """How all requests of one outline go on under one set of rules: `template % (method, base path, target, authority, *blanks)`."""

    __slots__ = ("bare", "rules", "template", "via")

    def __init__(self, outline: RequestOutline, rules: HeaderRules, *, fewer_hops: bool) -> None:
        drops = rules.strip | outline.hop
        template = [b"%b %b%b HTTP/1.1\r\nHost: %b\r\n"]
        for field in outline.fields:
            line = _one_hop_less(field.line) if fewer_hops else field.line
            template.append(_slot(field, line, goes=field.goes_up and field.folded not in drops))
        self.rules = rules
        self.template = b"".join(template)
        self.via = b"Via: %b, %b\r\n" % (outline.via, rules.via) if outline.via else b"Via: %b\r\n" % rules.via
        self.bare = self.via + b"\r\n"


def _slot(field: Field, line: bytes, *, goes: bool) -> bytes:
    """Its line in a template: with room for the blank where it is shared; a blank that does not go is taken up by nothing."""
    if field.shared:
        return field.name.replace(b"%", b"%%") + b": %b\r\n" if goes else b"%.0b"
    return line.replace(b"%", b"%%") if goes else b""


def _rewrite(head: RequestHead, permit: Permit) -> tuple[Permit, bytes, bytes]:
    """What stands before the credential, and what behind it."""
    outline = head.outline
    route, plan = permit.route, outline.plan
    rules, base_path = route.header_rules, route.base_path
    upgrade = head.upgrade if route.permits_upgrade(head.method, head.upgrade) else None
    if outline.max_forwards is not None:
        plan = _Plan(outline, rules, fewer_hops=head.method == "OPTIONS")  # RFC 9110 7.6.2
    elif plan is None or plan.rules is not rules:
        plan = outline.plan = _Plan(outline, rules, fewer_hops=False)
    if base_path and _DOT_SEGMENT.search(head.path):
        raise Fault("bad_request", "dot_segment: a `.` or `..` segment could leave the base path of ROBIN_UPSTREAM_URL")
    before = plan.template % (head.method.encode("ascii"), base_path, head.target, permit.endpoint.origin.authority, *head.blanks)
    framing = head.framing
    if framing == Framing.NONE and not outline.te_trailers and upgrade is None:
        return permit, before, plan.bare
    behind = [plan.via]
    if framing == Framing.LENGTH:
        behind.append(b"Content-Length: %d\r\n" % head.length)
    elif framing == Framing.CHUNKED:
        behind.append(b"Transfer-Encoding: chunked\r\n")
    if outline.te_trailers:
        behind.append(b"TE: trailers\r\n")
    if head.expects_continue:
        behind.append(b"Expect: 100-continue\r\n")
    if upgrade is not None:
        behind.append(b"Connection: Upgrade\r\nUpgrade: %b\r\n" % upgrade)
    behind.append(b"\r\n")
    return permit, before, b"".join(behind)


def _one_hop_less(line: bytes) -> bytes:
    """Max-Forwards counted down; what is not a number, and any other field, goes on as it came."""
    name, _, value = line.partition(b": ")
    digits = value.strip()
    if name.translate(FOLD) != b"max-forwards" or not digits.isdigit() or len(digits) > 9:
        return line
    return b"%b: %d\r\n" % (name, int(digits) - 1)


def forward_response(response: ResponseHead, *, minor: int, keep_alive: bool, chunked: bool) -> bytes:
    """The response head as the caller sees it.

    `minor` is the caller's HTTP/1 minor version; `chunked`: the body goes on in chunks; `keep_alive`: the connection goes on after it.
    """
    kept = response.forwarded
    shape = (minor, keep_alive, chunked)
    if kept is None or kept[0] != shape:
        kept = response.forwarded = (shape, _render_response(response, minor=minor, keep_alive=keep_alive, chunked=chunked))
    return kept[1]


def _render_response(response: ResponseHead, *, minor: int, keep_alive: bool, chunked: bool) -> bytes:
    outline = response.outline
    template = response.layout.template
    if template is None:
        lines = [_slot(field, field.line, goes=field.goes_down and field.folded not in outline.hop) for field in outline.fields]
        template = response.layout.template = b"HTTP/1.1 %d %b\r\n" + b"".join(lines)
    head: bytes = template % (response.status, response.reason, *response.blanks)
    if chunked:
        head += b"Transfer-Encoding: chunked\r\n"
    elif response.length >= 0 and response.framing != Framing.CHUNKED and response.status >= 200 and response.status != 204:
        head += b"Content-Length: %d\r\n" % response.length
    if response.status >= 200:
        if not keep_alive:
            head += b"Connection: close\r\n"
        elif minor == 0:
            head += b"Connection: keep-alive\r\n"
    return head + b"\r\n"


def forward_switch(response: ResponseHead) -> bytes:
    """A good 101 as the caller sees it: its own hop-by-hop fields, and no others."""
    head = forward_response(response, minor=1, keep_alive=True, chunked=False)
    return head[:-2] + b"Connection: Upgrade\r\nUpgrade: %b\r\n\r\n" % (response.upgrade or b"")


def forward_trailers(trailers: list[Field], rules: HeaderRules, hop: frozenset[bytes]) -> list[Field]:
    """The trailer fields that may follow a last chunk: none that frames, routes, authenticates, sets a cookie or is in `hop`.

    `hop`: the folded names that Connection listed in the head.
    """
    return [
        field
        for field in trailers
        if field.goes_up
        and field.folded not in rules.strip
        and field.folded not in hop
        and field.folded not in _NEVER_IN_TRAILERS
        and not field.folded.startswith((b"content-", b"proxy-"))
    ]

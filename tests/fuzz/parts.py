"""What the fuzz targets share: Robin's wire set up once, plain strict grammars to hold against it, and seeds from the corpus."""

import re

from tests.differential.outbound import credential
from tests.permits import permit_to, route

from robin.model.origin import Origin
from robin.wire.forwarding import forward_request, render
from robin.wire.shape import ParsedRequest

TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
FIELD_LINE = rb"(?:" + TOKEN + rb":[\t\x20-\x7e\x80-\xff]*\r\n)"
REQUEST_HEAD = re.compile(TOKEN + rb" [!-~]+ HTTP/1\.[01]\r\n" + FIELD_LINE + rb"*\r\n")
STATUS_HEAD = re.compile(rb"HTTP/1\.[01] [1-5][0-9][0-9](?: [\t\x20-\x7e\x80-\xff]*)?\r\n" + FIELD_LINE + rb"*\r\n")

ORIGIN = Origin(scheme="https", host="broker.example", port=443, authority=b"broker.example")
PERMIT = permit_to(ORIGIN, route(pseudonym="robin-0011aabb"))
CREDENTIAL = credential(b"token.of.ours")


def outbound_head(head: ParsedRequest) -> bytes:
    """The head that an upstream gets for `head`."""
    return render(forward_request(head, PERMIT, CREDENTIAL))


def pieces_of(data: bytes, cut: int) -> list[bytes]:
    """`data` in two pieces, cut at a place that depends on `cut`."""
    at = cut % (len(data) + 1)
    return [piece for piece in (data[:at], data[at:]) if piece]

"""What the gateway publishes for the programs behind it: the CAs of its slots, alone and together with the public roots of this machine."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Final

from robin.admin.pages import Page, Response
from robin.app.gateway_generation import Generation
from robin.model.message import RequestHead
from robin.transport.public_roots import public_roots

_PEM: Final = "application/x-pem-file"


def published_pages(current: Callable[[], Generation]) -> Mapping[bytes, Page]:
    """`/ca.crt`, and `/bundle.crt` where this machine has a file of public roots."""
    roots = public_roots()
    pages: dict[bytes, Page] = {b"/ca.crt": partial(_show, current, b"")}
    if roots:
        pages[b"/bundle.crt"] = partial(_show, current, roots)
    return pages


def _show(current: Callable[[], Generation], roots: bytes, _: RequestHead) -> Response:
    generation = current()
    pem = generation.slots.pem()
    if generation.authority is not None and generation.authority.pending:
        pem += generation.authority.ca.pem  # its file has another one already, and leaves are still signed with it
    if not pem:
        return Response(status=404, body=b"not found; there is no CA\n")
    return Response(status=200, content_type=_PEM, body=pem + roots)

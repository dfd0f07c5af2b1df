"""The admin listener's responses: a table of pages, rendered from state in memory. Nothing here waits."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from robin.admin.readiness import Readiness
from robin.model.faults import Fault
from robin.model.message import RequestHead

_TEXT: Final = "text/plain; charset=utf-8"
_JSON: Final = "application/json"
QUIT: Final = b"/quitquitquit"
READ: Final = "GET, HEAD"


@dataclass(frozen=True, slots=True, kw_only=True)
class Response:
    """One response. `allow` is the Allow field of a 405."""

    status: int
    content_type: str = _TEXT
    body: bytes
    allow: str | None = None


Page = Callable[[RequestHead], Response]
"""A page of the admin listener: waits for nothing."""

_OK: Final = Response(status=200, body=b"ok\n")
_NAMED: Final = (b"/livez", b"/readyz", b"/startupz", b"/metrics")
_FORBIDDEN: Final = Response(status=403, body=b"quit is for processes on this machine, and never for browsers\n")
BROKEN: Final = Response(status=500, body=b"internal_error\n")
OVERSIZED: Final = Response(status=431, body=b"head_too_large\n")


def refuse(fault: Fault) -> Response:
    """Return the response to a head that could not be read; an unknown method is treated like a known one that is not allowed."""
    if fault.kind.status in {405, 501}:
        return Response(status=405, body=b"method_refused\n", allow=READ)
    return Response(status=fault.kind.status, body=f"{fault.code}\n".encode())


class Pages:
    """The admin listener without its sockets. `begin_drain` None: /quitquitquit does not exist."""

    __slots__ = ("_begin_drain", "_pages", "_scrape", "_status", "_unknown")

    def __init__(
        self,
        *,
        status: Callable[[], Readiness],
        scrape: Callable[[str], tuple[str, bytes]],
        begin_drain: Callable[[], None] | None,
        more: Mapping[bytes, Page] = MappingProxyType({}),
    ) -> None:
        """`more`: pages of the plane, by path."""
        self._status = status
        self._scrape = scrape
        self._begin_drain = begin_drain
        self._unknown = Response(status=404, body=b"not found; there are %b\n" % b" ".join((*_NAMED, *more)))
        self._pages: dict[bytes, Page] = {
            **more,
            b"/healthz": _healthz,
            b"/livez": _healthz,
            b"/startupz": self._startupz,
            b"/readyz": self._readyz,
            b"/metrics": self._metrics,
        }

    def respond(self, head: RequestHead, *, local: bool) -> Response:
        """Return the response to `head`. `local`: the peer is on this machine (loopback or a Unix socket)."""
        path = head.path
        if path == QUIT and self._begin_drain is not None:
            return _quit(head, self._begin_drain, local=local)
        page = self._pages.get(path)
        if page is None:
            return self._unknown
        if head.method not in {"GET", "HEAD"}:
            return Response(status=405, body=b"method_refused\n", allow=READ)
        return page(head)

    def _startupz(self, _: RequestHead) -> Response:
        readiness = self._status()
        return Response(status=200 if readiness.started else 503, content_type=_JSON, body=readiness.render())

    def _readyz(self, _: RequestHead) -> Response:
        readiness = self._status()
        return Response(status=200 if readiness.ready else 503, content_type=_JSON, body=readiness.render())

    def _metrics(self, head: RequestHead) -> Response:
        accept = b",".join(head.values(b"accept"))
        content_type, body = self._scrape(accept.decode("latin-1"))
        return Response(status=200, content_type=content_type, body=body)


def _healthz(_: RequestHead) -> Response:
    return _OK


def _quit(head: RequestHead, begin_drain: Callable[[], None], *, local: bool) -> Response:
    """Begin the drain on a POST from this machine that no browser made; a repeated POST has the same response."""
    if not local or head.origin is not None or head.fetch_site is not None:
        return _FORBIDDEN
    if head.method != "POST":
        return Response(status=405, body=b"method_refused\n", allow="POST")
    begin_drain()
    return Response(status=200, content_type=_JSON, body=b'{"status":"draining"}\n')

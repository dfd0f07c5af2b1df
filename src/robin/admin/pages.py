"""What the admin plane answers to one request head: a table of pages, from state that is already there; nothing here waits for a fetch."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from robin.admin.readiness import Readiness
from robin.model.faults import Fault
from robin.model.message import RequestHead

_TEXT: Final = "text/plain; charset=utf-8"
_JSON: Final = "application/json"
QUIT: Final = b"/quitquitquit"
READ: Final = "GET, HEAD"


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One response. `allow` is the Allow field of a 405."""

    status: int
    content_type: str = _TEXT
    body: bytes
    allow: str | None = None


_OK: Final = Answer(status=200, body=b"ok\n")
_UNKNOWN: Final = Answer(status=404, body=b"not found\n")
_FORBIDDEN: Final = Answer(status=403, body=b"quit is for processes on this machine, and never for browsers\n")
BROKEN: Final = Answer(status=500, body=b"internal_error\n")
OVERSIZED: Final = Answer(status=431, body=b"head_too_large\n")


def refuse(fault: Fault) -> Answer:
    """The answer to a head that could not be read; an unknown method is like a known one that is not allowed."""
    if fault.kind.status in {405, 501}:
        return Answer(status=405, body=b"method_refused\n", allow=READ)
    return Answer(status=fault.kind.status, body=f"{fault.code}\n".encode())


class Pages:
    """The admin plane without its sockets. `begin_drain` None: /quitquitquit does not exist (ROBIN_ADMIN_QUIT)."""

    __slots__ = ("_begin_drain", "_pages", "_scrape", "_status")

    def __init__(
        self,
        *,
        status: Callable[[], Readiness],
        scrape: Callable[[str], tuple[str, bytes]],
        begin_drain: Callable[[], None] | None,
    ) -> None:
        self._status = status
        self._scrape = scrape
        self._begin_drain = begin_drain
        self._pages: dict[bytes, Callable[[RequestHead], Answer]] = {
            b"/healthz": _healthz,
            b"/livez": _healthz,
            b"/startupz": self._startupz,
            b"/readyz": self._readyz,
            b"/metrics": self._metrics,
        }

    def answer(self, head: RequestHead, *, local: bool) -> Answer:
        """The answer to `head`; `local`: the peer is on this machine (loopback or a Unix socket)."""
        path = head.path
        if path == QUIT and self._begin_drain is not None:
            return _quit(head, self._begin_drain, local=local)
        page = self._pages.get(path)
        if page is None:
            return _UNKNOWN
        if head.method not in {"GET", "HEAD"}:
            return Answer(status=405, body=b"method_refused\n", allow=READ)
        return page(head)

    def _startupz(self, _: RequestHead) -> Answer:
        readiness = self._status()
        return Answer(status=200 if readiness.started else 503, content_type=_JSON, body=readiness.render())

    def _readyz(self, _: RequestHead) -> Answer:
        readiness = self._status()
        return Answer(status=200 if readiness.ready else 503, content_type=_JSON, body=readiness.render())

    def _metrics(self, head: RequestHead) -> Answer:
        accept = b",".join(head.values(b"accept"))
        content_type, body = self._scrape(accept.decode("latin-1"))
        return Answer(status=200, content_type=content_type, body=body)


def _healthz(_: RequestHead) -> Answer:
    return _OK


def _quit(head: RequestHead, begin_drain: Callable[[], None], *, local: bool) -> Answer:
    """POST from this machine, by no browser: begin the drain; asked again, it says the same."""
    if not local or head.outline.origin is not None or head.outline.fetch_site is not None:
        return _FORBIDDEN
    if head.method != "POST":
        return Answer(status=405, body=b"method_refused\n", allow="POST")
    begin_drain()
    return Answer(status=200, content_type=_JSON, body=b'{"status":"draining"}\n')

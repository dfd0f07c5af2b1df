"""The end of every exchange: one call notes it, and a moment later it is counted and its access line written.

Rules: `finish` runs once per exchange on the loop's thread and only notes it; counting and writing are done for many at once by `settle`,
which costs a third of doing it one by one between other things. It is built for speed: one f-string, no json.dumps, escaping in C. Whatever
came from outside (path, method, claims) goes through that escaping, so hostile bytes stay one JSON line; a query never gets in.
"""

import math
import re
from bisect import bisect_left
from collections.abc import Callable, Iterator
from json.encoder import encode_basestring_ascii as quote
from typing import Final, Literal

from robin.model.caller import Caller
from robin.model.identity import IdentityToken
from robin.telemetry.histogram import EXCHANGE_S, Histogram
from robin.telemetry.metrics import Metrics
from robin.telemetry.names import Reading
from robin.telemetry.record import ExchangeRecord
from robin.telemetry.stamp import Stamp
from robin.telemetry.writer import LineWriter

METHOD_LABELS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
"""The `method` label; any other is `other`, and so is none: a head that was refused, CONNECT and TRACE among them, has no method."""

ROUTINE: Final = frozenset({"forwarded", "local_response"})
"""Outcomes of exchanges that ended as they should: `errors` leaves them out, and console lines do not name them."""

PATH_MAX: Final = 2048
CLAIM_MAX: Final = 2048
AUDIENCES_MAX: Final = 16
"""What a record keeps of a path and of claims: characters, and audiences."""

_TRACEPARENT = re.compile(rb"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(-.*)?", re.DOTALL)
_TRUTH: Final = {None: "null", True: "true", False: "false"}
_SHAPES_MAX: Final = 512
_BATCH: Final = 32
_QUERY: Final = ord("?")
_NO_PEER: Final = '"peer_uid":null,"peer_pid":null'


def trace_id(traceparent: bytes | None) -> str | None:
    """The trace-id of a valid W3C traceparent (Trace Context level 1, 3.2), else None; later versions may append to it."""
    found = _TRACEPARENT.fullmatch(traceparent) if traceparent is not None else None
    if found is None or (found[2] is not None and found.string.startswith(b"00")):
        return None
    return found[1].decode()


class Recorder:
    """Counts and writes exchanges. `prefix` is 16 hex digits of entropy: a request_id is the prefix and a count.

    `later` arranges for its argument to be called in a moment, on the loop's thread; None: every exchange is settled as it ends.
    """

    __slots__ = (
        "_count",
        "_ended",
        "_expires_at",
        "_later",
        "_line",
        "_metrics",
        "_mode",
        "_prefix",
        "_shapes",
        "_source",
        "_stamp",
        "_token",
        "_token_text",
        "_waiting",
        "_wall",
        "_writer",
    )

    def __init__(
        self,
        metrics: Metrics,
        writer: LineWriter,
        *,
        mode: Literal["all", "errors", "off"],
        style: Literal["json", "console"],
        wall: Callable[[], float],
        prefix: str,
        identity_source: str,
        later: Callable[[Callable[[], None]], object] | None = None,
    ) -> None:
        self._metrics = metrics
        self._writer = writer
        self._mode = mode
        self._line = self._json if style == "json" else self._console
        self._wall = wall
        self._later = later
        self._ended: list[ExchangeRecord] = []
        self._waiting = False  # a settlement is arranged for
        self._prefix = prefix
        self._count = 0
        self._source = identity_source
        self._stamp = Stamp()
        self._shapes: dict[tuple[object, ...], _Shape] = {}
        self._token: IdentityToken | None = None  # the one that the next two describe
        self._token_text = ""
        self._expires_at: float | None = None

    def request_id(self) -> str:
        """32 hex digits, never given before."""
        self._count += 1
        return f"{self._prefix}{self._count:016x}"

    def finish(self, record: ExchangeRecord) -> None:
        """Note an exchange that ended; it is counted and its line written within a moment."""
        wall = self._wall
        record.ended_at = wall()
        self._ended.append(record)
        if self._later is None or len(self._ended) >= _BATCH:
            self.settle()
        elif not self._waiting:
            self._waiting = True
            self._later(self._settle_late)

    def settle(self) -> None:
        """Count the exchanges that ended and write their lines."""
        ended, self._ended = self._ended, []
        lines, line = [], self._line
        each, errors = self._mode == "all", self._mode == "errors"
        for record in ended:
            shape = self._count_one(record)
            if each or (errors and (record.outcome not in ROUTINE or (record.status or 0) >= 400)):
                lines.append(line(record, shape))
        self._writer.put(lines)

    def _settle_late(self) -> None:
        self._waiting = False
        self.settle()

    def readings(self) -> Iterator[Reading]:
        """None of its own. It is asked before those it counts in, so that they are up to date."""
        self.settle()
        return iter(())

    def _count_one(self, record: ExchangeRecord) -> "_Shape":
        status, upstream_status = record.status, record.upstream_status
        attempt = (record.retries, record.reused, record.caller.listener)
        key = (record.outcome, record.credential, record.method, record.protocol, status, upstream_status, *attempt)
        shape = self._shapes.get(key)
        if shape is None:
            if len(self._shapes) >= _SHAPES_MAX:
                self._shapes.clear()
            shape = self._shapes[key] = _Shape(self._metrics, *key)
        metrics = self._metrics
        metrics.requests[shape.series] += 1
        histogram, duration_s, ttfb_s = shape.durations, record.duration_s, record.ttfb_s
        histogram.counts[bisect_left(EXCHANGE_S, duration_s)] += 1  # Histogram.observe, without the call
        histogram.total += duration_s
        if ttfb_s is not None:
            histogram = metrics.time_to_first_byte
            histogram.counts[bisect_left(EXCHANGE_S, ttfb_s)] += 1
            histogram.total += ttfb_s
        if upstream_status is not None:
            metrics.upstream_responses[upstream_status] += 1
        return shape

    def _json(self, record: ExchangeRecord, shape: "_Shape") -> str:
        wall = record.ended_at
        ttfb_s, token, path, caller, request_id = record.ttfb_s, record.identity, record.path, record.caller, record.request_id
        if token is None:
            identity = "null"
        else:
            if token is not self._token:
                self._remember(token)
            identity = f"{self._token_text}{'null' if self._expires_at is None else int(self._expires_at - wall)}}}"
        if request_id is None:
            self._count = count = self._count + 1
            request_id = f"{self._prefix}{count:016x}"
        return (
            f'{{"ts":"{self._stamp.text(wall)}","event":"exchange","request_id":"{request_id}",'
            f'"trace_id":{"null" if record.traceparent is None else _quote_trace(record.traceparent)},{shape.outcome}'
            f'"path":{"null" if path is None else quote(_path(path))},{shape.answer}'
            f'"bytes_in":{record.bytes_in},"bytes_out":{record.bytes_out},"ttfb_s":{"null" if ttfb_s is None else f"{ttfb_s:.6f}"},'
            f'"duration_s":{record.duration_s:.6f},"identity_wait_s":{f"{record.identity_wait_s:.6f}" if record.identity_wait_s else "0"},'
            f'{shape.tries}{_NO_PEER if caller.uid is None else _describe_peer(caller)},"identity":{identity}}}\n'
        )

    def _remember(self, token: IdentityToken) -> None:
        """Prepare the `identity` object up to the value of `expires_in_s`, which alone changes from line to line."""
        subject = "null" if token.subject is None else quote(token.subject[:CLAIM_MAX])
        audiences = ",".join(quote(audience[:CLAIM_MAX]) for audience in token.audiences[:AUDIENCES_MAX])
        self._token_text = f'{{"source":{quote(self._source)},"sub":{subject},"aud":[{audiences}],"expires_in_s":'
        self._expires_at = token.expires_at if token.expires_at is not None and math.isfinite(token.expires_at) else None
        self._token = token

    def _console(self, record: ExchangeRecord, _: "_Shape") -> str:
        """The same for people: time of day, method, path, status, duration; what is out of the ordinary behind it."""
        path = "-" if record.path is None else quote(_path(record.path))[1:-1]
        parts = [
            self._stamp.text(record.ended_at)[11:],
            f"{quote(record.method or '-')[1:-1]:<7}",
            path,
            f"-> {record.status or '-'}",
            f"{record.duration_s * 1000:.1f} ms",
        ]
        if record.outcome not in ROUTINE:
            parts.append(record.outcome)
        if record.retries:
            parts.append(f"retries={record.retries}")
        if record.identity_wait_s >= 0.001:
            parts.append(f"identity_wait={record.identity_wait_s * 1000:.0f} ms")
        return " ".join(parts) + "\n"


class _Shape:
    """What exchanges of one shape have in common: their series, and their line before the path, behind it, and behind the times."""

    __slots__ = ("answer", "durations", "outcome", "series", "tries")

    def __init__(
        self,
        metrics: Metrics,
        outcome: str,
        credential: str | None,
        method: str | None,
        protocol: str | None,
        status: int | None,
        upstream_status: int | None,
        retries: int,
        reused: bool | None,
        listener: str,
    ) -> None:
        self.series = (outcome, method if method in METHOD_LABELS else "other", status // 100 if status else 0)
        self.durations = metrics.request_duration.setdefault(outcome, Histogram(EXCHANGE_S))
        self.outcome = (
            f'"outcome":"{outcome}","credential":{"null" if credential is None else quote(credential)},'
            f'"method":{"null" if method is None else quote(method)},'
        )
        self.answer = (
            f'"protocol":{"null" if protocol is None else quote(protocol)},"status":{"null" if status is None else status},'
            f'"upstream_status":{"null" if upstream_status is None else upstream_status},'
        )
        self.tries = f'"retries":{retries},"reused":{_TRUTH[reused]},"listener":{quote(listener)},'


def _path(path: bytes) -> str:
    """A path as text, byte for byte, without a query, at most PATH_MAX long."""
    if _QUERY in path:  # as a number: `in` takes bytes by way of an exception
        path = path[: path.index(b"?")]
    return path[:PATH_MAX].decode("latin-1")


def _quote_trace(traceparent: bytes) -> str:
    found = trace_id(traceparent)
    return "null" if found is None else f'"{found}"'


def _describe_peer(caller: Caller) -> str:
    return f'"peer_uid":{caller.uid},"peer_pid":{"null" if caller.pid is None else caller.pid}'

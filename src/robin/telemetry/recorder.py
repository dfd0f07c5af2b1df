"""The end of every exchange: one call notes it, and within a moment it is counted and its access line written.

Rules: `finish` runs once per exchange on the loop's thread and only notes it. Counting and writing are done for many exchanges at once by
`flush`, which costs a third of doing it one by one between other work. It is built for speed: one template per combination of the values
that repeat, no json.dumps, escaping in C. All text that came from outside (path, method, claims) goes through that escaping, so hostile
bytes stay one JSON line; a query never gets in.
"""

import math
from bisect import bisect_left
from collections.abc import Callable, Iterator
from json.encoder import encode_basestring_ascii as quote
from typing import Final, Literal

from robin.model.identity import IdentityToken
from robin.telemetry.columns import Columns, read_attributes, render_path
from robin.telemetry.histogram import EXCHANGE_S, Histogram
from robin.telemetry.metrics import Metrics
from robin.telemetry.names import Reading
from robin.telemetry.record import ExchangeRecord
from robin.telemetry.timestamp import TimestampFormatter
from robin.telemetry.writer import LineWriter

METHOD_LABELS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
"""The `method` label; any other is `other`, and so is none: a head that was refused, CONNECT and TRACE among them, has no method."""

ROUTINE: Final = frozenset({"forwarded", "local_response"})
"""Outcomes of exchanges that ended as they should: `errors` leaves them out, and console lines do not name them."""

CLAIM_MAX: Final = 2048
AUDIENCES_MAX: Final = 16
"""What a record keeps of claims: characters, and audiences."""

_COUNTED: Final = ("outcome", "method", "status")  # the attributes that metrics need, beside those of the columns
_TEMPLATES_MAX: Final = 512
_BATCH: Final = 32


class Recorder:
    """Counts and writes exchanges. `prefix` is 16 hex digits of entropy: a request_id is the prefix and a count.

    `later` arranges for its argument to be called in a moment, on the loop's thread; None: every exchange is flushed as it ends.
    """

    __slots__ = (
        "_attributes",
        "_columns",
        "_count",
        "_ended",
        "_expires_at",
        "_flush_due",
        "_later",
        "_line",
        "_metrics",
        "_mode",
        "_prefix",
        "_render",
        "_source",
        "_templates",
        "_timestamps",
        "_token",
        "_token_text",
        "_wall",
        "_writer",
    )

    def __init__(
        self,
        metrics: Metrics,
        writer: LineWriter,
        *,
        columns: Columns,
        mode: Literal["all", "errors", "off"],
        style: Literal["json", "console"],
        wall: Callable[[], float],
        prefix: str,
        identity_source: str,
        later: Callable[[Callable[[], None]], object] | None = None,
    ) -> None:
        self._metrics = metrics
        self._writer = writer
        self._columns = columns
        self._render = columns.render
        self._attributes = read_attributes(tuple(dict.fromkeys((*columns.attributes, *_COUNTED))))
        self._mode = mode
        self._line = self._json if style == "json" else self._console
        self._wall = wall
        self._later = later
        self._ended: list[ExchangeRecord] = []
        self._flush_due = False
        self._prefix = prefix
        self._count = 0
        self._source = identity_source
        self._timestamps = TimestampFormatter()
        self._templates: dict[tuple[object, ...], RecordTemplate] = {}
        self._token: IdentityToken | None = None  # the next two describe it
        self._token_text = ""
        self._expires_at: float | None = None

    def request_id(self) -> str:
        """32 hex digits, never given before."""
        self._count += 1
        return f"{self._prefix}{self._count:016x}"

    def finish(self, record: ExchangeRecord) -> None:
        """Note an exchange that ended; it is counted and its line written within a moment."""
        record.ended_at = self._wall()
        self._ended.append(record)
        if self._later is None or len(self._ended) >= _BATCH:
            self.flush()
        elif not self._flush_due:
            self._flush_due = True
            self._later(self._flush_late)

    def flush(self) -> None:
        """Count the exchanges that ended and write their lines."""
        ended, self._ended = self._ended, []
        lines, line = [], self._line
        each, errors = self._mode == "all", self._mode == "errors"
        for record in ended:
            template = self._count_one(record)
            if each or (errors and (record.outcome not in ROUTINE or (record.status or 0) >= 400)):
                lines.append(line(record, template))
        self._writer.put(lines)

    def _flush_late(self) -> None:
        self._flush_due = False
        self.flush()

    def readings(self) -> Iterator[Reading]:
        """Yield nothing; flush, so that the metrics read after this are up to date."""
        self.flush()
        return iter(())

    def _count_one(self, record: ExchangeRecord) -> "RecordTemplate":
        attributes = self._attributes
        key = attributes(record)
        template = self._templates.get(key)
        if template is None:
            if len(self._templates) >= _TEMPLATES_MAX:
                self._templates.clear()
            parts = self._columns.render_parts(key)
            template = self._templates[key] = RecordTemplate(self._metrics, record, parts)
        metrics = self._metrics
        metrics.requests[template.series] += 1
        histogram, duration_s, ttfb_s = template.durations, record.duration_s, record.ttfb_s
        histogram.counts[bisect_left(EXCHANGE_S, duration_s)] += 1  # Histogram.observe, without the call
        histogram.total += duration_s
        if ttfb_s is not None:
            histogram = metrics.time_to_first_byte
            histogram.counts[bisect_left(EXCHANGE_S, ttfb_s)] += 1
            histogram.total += ttfb_s
        upstream_status = record.upstream_status
        if upstream_status is not None:
            metrics.upstream_responses[upstream_status] += 1
        return template

    def _json(self, record: ExchangeRecord, template: "RecordTemplate") -> str:
        wall, token, render = record.ended_at, record.identity, self._render
        if token is None:
            identity = "null"
        else:
            if token is not self._token:
                self._describe(token)
            identity = f"{self._token_text}{'null' if self._expires_at is None else int(self._expires_at - wall)}}}"
        if record.request_id is None:
            self._count = count = self._count + 1
            record.request_id = f"{self._prefix}{count:016x}"
        return render(template.parts, record, self._timestamps.text(wall), identity)

    def _describe(self, token: IdentityToken) -> None:
        """Prepare the `identity` object up to the value of `expires_in_s`, which alone changes from line to line."""
        subject = "null" if token.subject is None else quote(token.subject[:CLAIM_MAX])
        audiences = ",".join(quote(audience[:CLAIM_MAX]) for audience in token.audiences[:AUDIENCES_MAX])
        self._token_text = f'{{"source":{quote(self._source)},"sub":{subject},"aud":[{audiences}],"expires_in_s":'
        self._expires_at = token.expires_at if token.expires_at is not None and math.isfinite(token.expires_at) else None
        self._token = token

    def _console(self, record: ExchangeRecord, _: "RecordTemplate") -> str:
        """Render a record for people: time of day, method, path, status, duration, then what is out of the ordinary."""
        path = "-" if record.path is None else render_path(record.path)[1:-1]
        parts = [
            self._timestamps.text(record.ended_at)[11:],
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


class RecordTemplate:
    """What records with the same repeated values have in common: their series, and the fixed parts of their line."""

    __slots__ = ("durations", "parts", "series")

    def __init__(self, metrics: Metrics, record: ExchangeRecord, parts: tuple[str, ...]) -> None:
        outcome, method, status = record.outcome, record.method, record.status
        self.series = (outcome, method if method in METHOD_LABELS else "other", status // 100 if status else 0)
        self.durations = metrics.request_duration.setdefault(outcome, Histogram(EXCHANGE_S))
        self.parts = parts

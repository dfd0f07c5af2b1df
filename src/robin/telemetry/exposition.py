"""Metrics as text: Prometheus text 0.0.4, or OpenMetrics 1.0 where the scraper accepts it.

Decision 5 has the reasons for not using prometheus_client. Its parsers, and promtool, are the oracles of the tests.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Final

from robin.telemetry.histogram import Histogram
from robin.telemetry.names import METRICS, MetricName, Readable
from robin.telemetry.process import ProcessCounters

PLAIN: Final = "text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS: Final = "application/openmetrics-text; version=1.0.0; charset=utf-8"

_ESCAPES: Final = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n"})


class Exposition:
    """Renders the series of `sources` and of the process, each with the label `plane`."""

    __slots__ = ("_plane", "_sources")

    def __init__(self, sources: Sequence[Readable], *, plane: str) -> None:
        self._sources = (*sources, ProcessCounters())
        self._plane = f'plane="{_escape(plane)}"'

    def scrape(self, accept: str) -> tuple[str, bytes]:
        """Return the content type and the text for an Accept value (empty if the scraper sent none)."""
        openmetrics = prefers_openmetrics(accept)
        samples: dict[str, list[str]] = {name.name: [] for name in METRICS}
        for source in self._sources:
            for name, values, value in source.readings():
                labels = [f'{label}="{_escape(text)}"' for label, text in zip(name.labels, values, strict=True)]
                samples[name.name].extend(_sample_lines(name, ",".join([*labels, self._plane]), value))
        lines = [line for name in METRICS for line in (*_family_lines(name, openmetrics=openmetrics), *samples[name.name])]
        if openmetrics:
            return OPENMETRICS, "\n".join([*lines, "# EOF", ""]).encode()
        return PLAIN, "\n".join([*lines, ""]).encode()


def _family_lines(name: MetricName, *, openmetrics: bool) -> tuple[str, str]:
    """OpenMetrics names a counter's family without the `_total` of its samples; a family without samples is still announced."""
    family = name.name.removesuffix("_total") if openmetrics and name.kind == "counter" else name.name
    return f"# HELP {family} {name.text}", f"# TYPE {family} {name.kind}"


def _sample_lines(name: MetricName, labels: str, value: float | Histogram) -> Iterator[str]:
    """One line, or for a histogram its cumulated buckets, their count and their sum."""
    if not isinstance(value, Histogram):
        yield f"{name.name}{{{labels}}} {_number(value)}"
        return
    below = 0
    for bound, count in zip((*value.bounds, math.inf), value.counts, strict=True):
        below += count
        yield f'{name.name}_bucket{{le="{_number(bound)}",{labels}}} {below}'
    yield f"{name.name}_count{{{labels}}} {below}"
    yield f"{name.name}_sum{{{labels}}} {_number(value.total)}"


def _number(value: float) -> str:
    return "+Inf" if value == math.inf else repr(value)


def _escape(text: str) -> str:
    return text.translate(_ESCAPES)


def prefers_openmetrics(accept: str) -> bool:
    """Return True if an Accept value names OpenMetrics 1.0 and ranks it at least as high as plain text (RFC 9110 12.5.1)."""
    openmetrics = plain = 0.0
    for part in accept.lower().split(","):
        kind, *parameters = (piece.strip() for piece in part.split(";"))
        options = dict(parameter.partition("=")[::2] for parameter in parameters)
        weight = _weight(options.get("q", "1"))
        if kind == "application/openmetrics-text" and options.get("version", "1.0.0").strip('"') in {"1.0.0", "0.0.1"}:
            openmetrics = max(openmetrics, weight)
        elif kind in {"text/plain", "text/*"} and options.get("version", "0.0.4").strip('"') == "0.0.4":
            plain = max(plain, weight)
    return openmetrics > 0 and openmetrics >= plain


def _weight(text: str) -> float:
    """Return a qvalue as a number; 0 for text that is not one."""
    try:
        weight = float(text)
    except ValueError:
        return 0.0
    return weight if 0 <= weight <= 1 else 0.0

"""Metrics as text: Prometheus 0.0.4, or OpenMetrics 1.0 where the scraper asks for it, written by prometheus_client.

That library is loaded at the first scrape, in a thread, so that a sidecar nobody scrapes pays nothing and traffic does not wait.
"""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Final

from robin.telemetry.histogram import Histogram
from robin.telemetry.names import METRICS, MetricName, Readable

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric
    from prometheus_client.samples import Sample

PLAIN: Final = "text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS: Final = "application/openmetrics-text; version=1.0.0; charset=utf-8"


class Exposition:
    """Renders the series of `sources`, each with the label `plane`."""

    __slots__ = ("_families", "_plane", "_sources")

    def __init__(self, sources: Sequence[Readable], *, plane: str) -> None:
        self._sources = tuple(sources)
        self._plane = plane
        self._families: _Families | None = None

    async def scrape(self, accept: str) -> tuple[str, bytes]:
        """The content type and the text, by the scraper's Accept value (empty where it sent none)."""
        if self._families is None:
            self._families = await asyncio.to_thread(_Families, self._sources, self._plane)
        if prefers_openmetrics(accept):
            return OPENMETRICS, self._families.write_openmetrics(self._families)
        return PLAIN, self._families.write_plain(self._families)


class _Families:
    """The collector that prometheus_client's writers read; making one loads the library."""

    def __init__(self, sources: Sequence[Readable], plane: str) -> None:
        from prometheus_client import exposition, metrics_core, openmetrics, process_collector, samples  # noqa: PLC0415 - see line 3
        from prometheus_client.openmetrics import exposition as _open  # noqa: F401, PLC0415 - loads the submodule

        self.write_plain: Callable[[_Families], bytes] = exposition.generate_latest
        self.write_openmetrics: Callable[[_Families], bytes] = openmetrics.exposition.generate_latest
        self._family, self._sample = metrics_core.Metric, samples.Sample
        self._process = process_collector.ProcessCollector(registry=None)
        self._sources, self._plane = sources, plane

    def collect(self) -> Iterator["Metric"]:
        """Every family of the table, with the series that its sources know now; then the process's own."""
        families = {
            name.name: self._family(name.name.removesuffix("_total") if name.kind == "counter" else name.name, name.text, name.kind)
            for name in METRICS
        }
        for source in self._sources:
            for name, values, value in source.readings():
                labels = dict(zip(name.labels, values, strict=True), plane=self._plane)
                family = families[name.name].samples
                if isinstance(value, Histogram):
                    family.extend(self._buckets(name, labels, value))
                else:
                    family.append(self._sample(name.name, labels, value))
        yield from families.values()
        yield from self._process_families()

    def _buckets(self, name: MetricName, labels: dict[str, str], histogram: Histogram) -> Iterator["Sample"]:
        """A histogram as the formats want it: cumulated counts, then their sum."""
        below = 0
        for bound, count in zip((*map(repr, histogram.bounds), "+Inf"), histogram.counts, strict=True):
            below += count
            yield self._sample(f"{name.name}_bucket", {**labels, "le": bound}, below)
        yield self._sample(f"{name.name}_count", labels, below)
        yield self._sample(f"{name.name}_sum", labels, histogram.total)

    def _process_families(self) -> Iterator["Metric"]:
        try:
            families = list(self._process.collect())
        except ValueError:  # an unlimited RLIMIT_NOFILE reads as a word
            return
        for family in families:
            family.samples = [sample._replace(labels={**sample.labels, "plane": self._plane}) for sample in family.samples]
            yield family


def prefers_openmetrics(accept: str) -> bool:
    """Whether an Accept value ranks OpenMetrics 1.0 at least as high as plain text (RFC 9110 12.5.1); it must name it."""
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
    """A qvalue; what is not one ranks nothing."""
    try:
        weight = float(text)
    except ValueError:
        return 0.0
    return weight if 0 <= weight <= 1 else 0.0

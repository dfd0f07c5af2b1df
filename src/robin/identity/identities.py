"""The identities of one process, by source and audience: built on first use, started, woken and closed together, bounded in number.

Each identity has a label for metrics, probes and the log: the configured name of its source, and `name#2`, `name#3` for further audiences
of the same source in the order of their first use. An audience never becomes a label.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import count
from typing import Final

from robin.identity.catalog import build_identity
from robin.identity.identity import Dependencies, Identity
from robin.identity.settings import IdentitySettings
from robin.model.identity import IdentityStatus
from robin.telemetry.identity_metrics import IdentityMetrics
from robin.telemetry.names import Reading

IDENTITIES_MAX: Final = 64


class TooManyIdentities(Exception):
    """The configuration asks for more pairs of source and audience than the limit."""

    def __init__(self, limit: int) -> None:
        super().__init__(
            f"too_many_identities: more than {limit} pairs of identity source and audience are configured; use fewer audiences"
        )


class Identities:
    """Holds every identity. Also a `telemetry.names.Readable`: it yields the series of all of them."""

    __slots__ = ("_by_pair", "_dependencies", "_inherited", "_limit", "_metrics", "_sources", "_started")

    def __init__(self, sources: Mapping[str, IdentitySettings], dependencies: Dependencies, *, limit: int = IDENTITIES_MAX) -> None:
        """`sources` maps configured names to the settings of each source."""
        self._sources = dict(sources)
        self._dependencies = dependencies
        self._limit = limit
        self._by_pair: dict[tuple[str, str | None], Identity] = {}
        self._metrics: dict[tuple[str, str | None], IdentityMetrics] = {}
        self._inherited: dict[tuple[str, str | None], tuple[Identity, IdentityMetrics]] = {}  # run already, and may be asked for
        self._started = False

    def __len__(self) -> int:
        return len(self._by_pair)

    def get(self, source: str, audience: str | None = None) -> Identity:
        """Return the identity of this source for this audience (None: the audience of the source's settings), built when first asked for.

        Raises KeyError for a source that is not configured, TooManyIdentities beyond the limit. After `start` a new identity is started
        too.
        """
        settings = self._sources[source]
        if audience is None:
            audience = settings.audience
        found = self._by_pair.get((source, audience))
        if found is not None:
            return found
        if len(self._by_pair) >= self._limit:
            raise TooManyIdentities(self._limit)
        if audience is not None:
            settings = replace(settings, audience=audience)
        inherited = self._inherited.get((source, audience))
        if inherited is None:
            metrics = IdentityMetrics(self._label(source))
            identity = build_identity(settings, self._dependencies, metrics)
        else:
            identity, metrics = inherited
        self._by_pair[source, audience] = identity
        self._metrics[source, audience] = metrics
        if self._started and inherited is None:
            self._dependencies.tasks.start(identity.start(), "identity start")
        return identity

    def _label(self, source: str) -> str:
        """One that no identity of this source has."""
        taken = {metrics.source for metrics in (*self._metrics.values(), *(metrics for _, metrics in self._inherited.values()))}
        labels = (source if number == 1 else f"{source}#{number}" for number in count(1))
        return next(label for label in labels if label not in taken)

    def succeed(self, sources: Mapping[str, IdentitySettings]) -> "Identities":
        """The identities of later settings, not started yet: one whose source is unchanged goes on in them once it is asked for."""
        after = Identities(sources, self._dependencies, limit=self._limit)
        for pair, identity in self._by_pair.items():
            if sources.get(pair[0]) == self._sources[pair[0]]:
                after._inherited[pair] = (identity, self._metrics[pair])
        return after

    @property
    def metrics(self) -> tuple[IdentityMetrics, ...]:
        """The counters of each identity, in the order in which they were built."""
        return tuple(self._metrics.values())

    def statuses(self) -> tuple[IdentityStatus, ...]:
        """Return the state of each identity, in the order in which they were built; never reads, never fetches."""
        return tuple(identity.status() for identity in self._by_pair.values())

    def readings(self) -> Iterator[Reading]:
        """Yield every series of every identity."""
        for metrics in self._metrics.values():
            yield from metrics.readings()

    async def start(self) -> None:
        """Begin to keep every identity current."""
        self._started = True
        for pair, identity in list(self._by_pair.items()):
            if pair not in self._inherited:
                await identity.start()

    def wake(self) -> None:
        """Refresh every identity now (SIGHUP)."""
        for identity in self._by_pair.values():
            identity.wake()

    async def close(self, *, after: "Identities | None" = None) -> None:
        """Stop every identity, but those that go on in `after`, and release its connections."""
        self._started = False
        kept = () if after is None else after._by_pair.values()
        for identity in [one for one in self._by_pair.values() if one not in kept]:
            await identity.close()

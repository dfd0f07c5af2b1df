"""At most one scrape per turn of the event loop for all peers, so that peers that scrape without pause cost one text per turn.

The shared text is never old: it is dropped in the next turn, before a later request is served.
"""

import asyncio
from collections.abc import Callable

from robin.telemetry.exposition import prefers_openmetrics

Scrape = Callable[[str], tuple[str, bytes]]


class SharedScrape:
    """Calls `scrape` with the first Accept value of a turn, once for each of the two formats."""

    __slots__ = ("_made", "_scrape")

    def __init__(self, scrape: Scrape) -> None:
        self._scrape = scrape
        self._made: dict[bool, tuple[str, bytes]] = {}

    def __call__(self, accept: str) -> tuple[str, bytes]:
        """Return the content type and the text."""
        openmetrics = prefers_openmetrics(accept)
        made = self._made.get(openmetrics)
        if made is None:
            made = self._made[openmetrics] = self._scrape(accept)
            asyncio.get_running_loop().call_soon(self._made.clear)
        return made

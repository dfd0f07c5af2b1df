"""One scrape a turn of the event loop, whoever asks: peers that ask without pause cost one text a turn, not one each.

What is shared is never old: it is forgotten in the next turn, before a request that came after it is answered.
"""

import asyncio
from collections.abc import Callable

from robin.telemetry.exposition import prefers_openmetrics

Scrape = Callable[[str], tuple[str, bytes]]


class SharedScrape:
    """Calls `scrape` with the Accept value of the first who asks in a turn, once for each of the two formats."""

    __slots__ = ("_made", "_scrape")

    def __init__(self, scrape: Scrape) -> None:
        self._scrape = scrape
        self._made: dict[bool, tuple[str, bytes]] = {}

    def __call__(self, accept: str) -> tuple[str, bytes]:
        """The content type and the text."""
        openmetrics = prefers_openmetrics(accept)
        made = self._made.get(openmetrics)
        if made is None:
            made = self._made[openmetrics] = self._scrape(accept)
            asyncio.get_running_loop().call_soon(self._made.clear)
        return made

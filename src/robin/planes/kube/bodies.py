"""How many bodies of an agent are held at once: each may have megabytes, and all agents share the memory of the process."""

from typing import Final

from robin.planes.kube.exchange import KubeExchange

PER_AGENT: Final = 64


class Bodies:
    """The requests whose bodies are being received, or were, until their ends."""

    __slots__ = ("_held",)

    def __init__(self) -> None:
        self._held: dict[str, set[KubeExchange]] = {}

    def begin(self, exchange: KubeExchange) -> bool:
        """Count a body before it is read. Returns False if the agent has as many as it may have."""
        held = self._held.setdefault(exchange.agent, set())
        if len(held) >= PER_AGENT:
            return False
        held.add(exchange)
        return True

    def finish(self, exchange: KubeExchange) -> None:
        """A request ended, with a body or not."""
        held = self._held.get(exchange.agent)
        if held is not None:
            held.discard(exchange)
            if not held:
                del self._held[exchange.agent]

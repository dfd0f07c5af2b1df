"""Requests that last (watch, log, exec, attach, portforward, proxy): how many an agent has open, and what ends each of them.

Rules a reader must keep: the API server looks at a token only when a request begins, so the end of a session is ours. A watch ends as a
whole message, and its client watches again; of anything else a clean end would look like the whole, so its connection is reset.
"""

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Final

from robin.model.faults import Fault
from robin.planes.kube.exchange import Agent, KubeExchange

_CLEAN_END_S: Final = 1.0

Ends = dict[str, float | None]
"""Seconds until each reason ends the session; None: it never does."""


class Sessions:
    """The sessions that are open. `ended` counts them by kind and reason."""

    __slots__ = ("_limit", "_loop", "_open", "ended")

    def __init__(self, loop: asyncio.AbstractEventLoop, *, per_agent: int) -> None:
        self._loop = loop
        self._limit = per_agent
        self._open: dict[KubeExchange, Agent] = {}
        self.ended: Counter[tuple[str, str]] = Counter()

    def kinds(self) -> Counter[str]:
        """How many of each kind are open."""
        return Counter(exchange.kind for exchange in self._open)

    def begin(self, agent: Agent) -> None:
        """Count a session before anything is minted for it. Raises Fault `kube.too_many_streams`."""
        name = agent.exchange.agent
        if sum(exchange.agent == name for exchange in self._open) >= self._limit:
            raise Fault("kube.too_many_streams", f"streams: this agent has {self._limit} sessions open")
        self._open[agent.exchange] = agent

    def end_after(self, agent: Agent, ends: Ends) -> None:
        """Arm the earliest end, unless it is ending already."""
        if agent.exchange.end_reason:
            return
        left = {reason: left_s for reason, left_s in ends.items() if left_s is not None}
        reason = min(left, key=left.__getitem__)
        agent.exchange.stop_timer()
        agent.exchange.cut = self._loop.call_later(max(0.0, left[reason]), self._cut, agent, reason)

    def finish(self, exchange: KubeExchange, end_reason: str) -> None:
        """A request ended, a session or not."""
        exchange.stop_timer()
        if self._open.pop(exchange, None) is not None:
            self.ended[exchange.kind, end_reason] += 1

    def judge_again(self, judge: Callable[[KubeExchange], str]) -> None:
        """End every session for which `judge` gives a reason."""
        for exchange, agent in list(self._open.items()):
            if not exchange.end_reason and (reason := judge(exchange)):
                self._cut(agent, reason)

    def _cut(self, agent: Agent, reason: str) -> None:
        exchange = agent.exchange
        exchange.stop_timer()
        exchange.end_reason = reason
        if exchange.kind == "watch":
            agent.end()
            exchange.cut = self._loop.call_later(_CLEAN_END_S, agent.reset)  # a chunk that is never whole
        else:
            agent.reset()

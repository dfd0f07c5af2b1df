"""The callers of a soak: a paced, open-loop load of every kind of exchange; each one's end is a row of the ledger.

The pace does not wait for answers; but at most `IN_FLIGHT_MAX` exchanges are under way, and what that holds back is counted, not made up.
"""

import asyncio
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import uvloop
from tests.soak.journeys import JOURNEYS, Exchange, Outcome, head_of, receive
from tests.soak.ledger import Result, ResultLedger, Row
from tests.soak.mix import NUMBER, PIPELINED, QUICK, Kind, Mixer
from tests.soak.wire import PATIENCE_S, Short, Window, Wire, Wrong, connect
from tests.soak.worker import orders, tell

from robin.testing.connection import WINDOW_BYTES, PeerLeft
from robin.transport.tasks import TaskOwner

IN_FLIGHT_MAX = 200
_KEPT_MAX = 48
_TICK_S = 0.005
_TEXTS_MAX = 50
_SMALL_BYTES = 16 * 1024


class Callers:
    """All callers of one sidecar."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self._host: str = settings["host"]
        self._port: int = settings["port"]
        self._ledger = ResultLedger(Path(settings["ledger"]))
        self._mixer = Mixer(settings["seed"])
        self._tasks = TaskOwner(self._failed)
        self._loop = asyncio.get_running_loop()
        self._kept: list[Wire] = []
        self._phase = 0
        self._rate = 0.0
        self._count = 0
        self._in_flight = 0
        self._held = 0
        self._texts = 0
        self._ended: Counter[str] = Counter()
        self._took_us: list[int] = []
        self._stopping = False

    async def serve(self, told: AsyncIterator[dict[str, Any]]) -> None:
        """Obey until nothing more is told, then let every exchange end."""
        pace = self._tasks.start(self._pace(), "pace")
        report = self._tasks.start(self._report(), "report")
        async for order in told:
            if "phase" in order:
                self._phase = order["number"]
                self._rate = order["rate"]
                self._mixer.tear(order["tears"])
                tell(phase=True, in_flight=self._in_flight)
            elif "hang_up" in order:  # end the kept connections once nothing is under way
                while self._in_flight:
                    await asyncio.sleep(_TICK_S)
                for wire in self._kept:
                    wire.transport.close()
                self._kept.clear()
                tell(hang_up=True)
        self._stopping = True
        await pace
        while self._in_flight:
            await asyncio.sleep(_TICK_S)
        report.cancel()
        self._say()
        await self._tasks.close()
        self._ledger.close()

    # Connections, as the journeys see them

    async def take(self) -> Wire:
        """A kept connection that is open and clean, or a new one."""
        while self._kept:
            wire = self._kept.pop()
            if wire.clean:
                return wire
            if wire.ended is None:
                self._violation(f"{wire.received_count - wire.taken} stray bytes on a kept connection")
            wire.transport.close()
        return await self.fresh()

    async def fresh(self, *, slow: bool = False) -> Wire:
        """A new connection."""
        if slow:
            return await connect(self._host, self._port, window_bytes=_SMALL_BYTES, receive_buffer=_SMALL_BYTES)
        return await connect(self._host, self._port, window_bytes=WINDOW_BYTES)

    def give(self, wire: Wire) -> None:
        """Keep it, unless enough are kept."""
        if len(self._kept) < _KEPT_MAX:
            self._kept.append(wire)
        else:
            wire.transport.close()

    def cut(self, size: int) -> int:
        """A place to cut."""
        return self._mixer.cut(size)

    def chance(self, share: float) -> bool:
        """A throw of the dice."""
        return self._mixer.chance(share)

    # the load

    async def _pace(self) -> None:
        rate, due = 0.0, 0.0
        last = self._loop.time()
        while not self._stopping:
            now = self._loop.time()
            due = due + rate * (now - last) if rate == self._rate else 0.0
            last, rate = now, self._rate
            while due >= 1.0 and self._in_flight < IN_FLIGHT_MAX:
                due -= self._begin()
            if due >= 1.0:
                self._held += int(due)
                due -= int(due)
            await asyncio.sleep(_TICK_S)

    def _begin(self) -> int:
        """Begin the next exchange, or the next few; how many."""
        kind, size = self._mixer.draw()
        if kind.name == "pipeline":
            batch = [self._exchange(kind, self._mixer.size(kind)) for _ in range(PIPELINED)]
            self._tasks.start(self._pipeline(batch), "pipeline")
            return PIPELINED
        self._tasks.start(self._one(self._exchange(kind, size)), kind.name)
        return 1

    def _exchange(self, kind: Kind, size: int) -> Exchange:
        self._count += 1
        self._in_flight += 1
        return Exchange(number=self._count, kind=kind, size=size, began=self._phase, started_at=time.monotonic())

    async def _one(self, exchange: Exchange) -> None:
        try:
            async with asyncio.timeout(PATIENCE_S):
                outcome = await JOURNEYS[exchange.kind.name](self, exchange)
        except Exception as error:
            outcome = self._explain(error, exchange)
        self._end(exchange, outcome)

    async def _pipeline(self, batch: list[Exchange]) -> None:
        """Several requests in one write; the answers come in their order."""
        waiting = list(batch)
        failure: Exception = PeerLeft("the connection was not kept")
        wire: Wire | None = None
        try:
            async with asyncio.timeout(PATIENCE_S):
                wire = await self.take()
                await wire.send(b"".join(head_of(exchange) for exchange in batch))
                while waiting:
                    outcome, head = await receive(waiting[0].on(wire), waiting[0], Window(waiting[0].number, waiting[0].size))
                    self._end(waiting.pop(0), outcome)
                    if not head.goes_on:
                        break
                if not waiting and head.goes_on and wire.clean:
                    self.give(wire)
                else:
                    wire.transport.close()
        except Exception as error:
            failure = error
            if wire is not None:
                wire.transport.abort()
        for exchange in waiting:
            self._end(exchange, self._explain(failure, exchange))

    def _explain(self, error: Exception, exchange: Exchange) -> Outcome:
        """How an exchange ended that did not end with a whole answer; its connection is of no more use."""
        if exchange.wire is not None:
            exchange.wire.transport.abort()
        if isinstance(error, PeerLeft):
            return Outcome(result=Result.CUT if exchange.heard else Result.UNANSWERED)
        if isinstance(error, TimeoutError):
            self._text(exchange, f"no end in {PATIENCE_S:g} s: {error}")
            return Outcome(result=Result.HUNG)
        if isinstance(error, OSError):
            return Outcome(result=Result.SHUT)
        if isinstance(error, Short):
            return Outcome(result=Result.SHORT)
        self._text(exchange, str(error) if isinstance(error, Wrong) else repr(error))
        return Outcome(result=Result.WRONG)

    def _end(self, exchange: Exchange, outcome: Outcome) -> None:
        self._in_flight -= 1
        took_s = time.monotonic() - exchange.started_at  # the loop's own clock stands still within a turn
        kind = NUMBER[exchange.kind.name]
        if kind in QUICK and outcome.result is Result.RIGHT:
            self._took_us.append(int(took_s * 1e6))
        self._ended[outcome.result.name.lower()] += 1
        row = Row(
            number=exchange.number,
            kind=kind,
            result=outcome.result,
            began=exchange.began,
            ended=self._phase,
            status=outcome.status,
            code=outcome.code,
            octets=outcome.octets,
            took_s=took_s,
        )
        self._ledger.note(row)

    # what is told

    def _text(self, exchange: Exchange, text: str) -> None:
        self._violation(f"{exchange.kind.name} {exchange.number} ({exchange.size} bytes): {text}")

    def _violation(self, text: str) -> None:
        self._texts += 1
        if self._texts <= _TEXTS_MAX:
            tell(violation=text)

    def _failed(self, name: str, error: BaseException) -> None:
        tell(violation=f"the callers' own task {name} failed: {error!r}")

    async def _report(self) -> None:
        while True:
            await asyncio.sleep(1.0)
            self._say()

    def _say(self) -> None:
        tell(begun=self._count, ended=dict(self._ended), in_flight=self._in_flight, held=self._held, took_us=self._took_us)
        self._took_us = []


async def main() -> None:
    """The first line on stdin holds the settings."""
    told = orders()
    await Callers(await anext(told)).serve(told)


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())
    sys.exit(0)

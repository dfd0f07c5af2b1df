"""The sidecar under test as a child process, with its records and events read once, as they come, however many there are."""

import asyncio
import json
import re
from collections.abc import Callable, Mapping
from typing import Any

from tests.real.parts.load import Answer, ask

from robin.testing.process import SidecarProcess


class RealSidecar(SidecarProcess):
    """`records` are its access records, `notes` its other JSON lines."""

    def __init__(self, *, upstream_url: str, settings: Mapping[str, str]) -> None:
        super().__init__(upstream_url=upstream_url, settings=settings, on_line=self._hear, keep_lines=200)
        self.records: list[dict[str, Any]] = []
        self.notes: list[dict[str, Any]] = []
        self._heard = asyncio.Event()

    def noted(self, event: str, **fields: object) -> list[dict[str, Any]]:
        """The notes of this event that have these fields."""
        return [one for one in self.notes if one.get("event") == event and fields.items() <= one.items()]

    async def note(self, event: str, *, after: int = 0, timeout_s: float = 60.0, **fields: object) -> dict[str, Any]:
        """The note of this event that follows the first `after` of them."""
        await self._until_heard(lambda: len(self.noted(event, **fields)) > after, f"{event} {fields}", timeout_s)
        return self.noted(event, **fields)[after]

    async def recorded(self, count: int, *, timeout_s: float = 60.0) -> list[dict[str, Any]]:
        """All access records, once there are `count`."""
        await self._until_heard(lambda: len(self.records) >= count, f"{count} records", timeout_s)
        return self.records

    async def admin_page(self, target: str) -> Answer:
        """A page of the admin listener."""
        return await ask(self.admin_url, target)

    async def metric(self, name: str, **labels: str) -> float:
        """The sum of the series of this name that have these labels."""
        text = (await self.admin_page("/metrics")).body.decode()
        series = re.findall(rf"^{name}{{(.*)}} (\S+)$", text, re.MULTILINE)
        wanted = {f'{label}="{value}"' for label, value in labels.items()}
        return sum(float(value) for found, value in series if wanted <= set(re.findall(r'\w+="[^"]*"', found)))

    def _hear(self, stream: str, text: str) -> None:
        if stream == "stdout" and text.startswith("{"):
            entry = json.loads(text)
            (self.records if entry["event"] == "exchange" else self.notes).append(entry)
            self._heard.set()

    async def _until_heard(self, seen: Callable[[], bool], what: str, timeout_s: float) -> None:
        try:
            async with asyncio.timeout(timeout_s):
                while not seen():
                    self._heard.clear()
                    await self._heard.wait()
        except TimeoutError:
            raise TimeoutError(f"waited {timeout_s:g} s for {what}; the last notes: {self.notes[-5:]}") from None

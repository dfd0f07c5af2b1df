"""Callers: paced HTTP/1.1 clients that keep their connection, take each answer apart with h11 and keep it beside its instants.

Every request is unlike any other (target, and body for a POST), and an answer that is not to it counts as wrong: a mixed-up or lost
exchange cannot hide.
"""

import asyncio
import contextlib
import hashlib
import json
import time
from collections.abc import Iterable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

import h11

ANSWER_LIMIT_BYTES = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One request and what came of it; instants in Unix seconds. `wrong` says what is wrong with an answer that is not ours to get."""

    started_at: float
    ended_at: float
    status: int
    fields: dict[str, str]
    body: bytes
    wrong: str = ""

    @property
    def document(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)

    @property
    def code(self) -> str:
        """Robin's own code when Robin refused, else nothing."""
        found = self.fields.get("proxy-status", "").partition('details="')[2].partition('"')[0]
        return found if self.fields.get("proxy-status", "").startswith("robin;") else ""

    @property
    def took_s(self) -> float:
        """From before the first byte was written until the last was read."""
        return self.ended_at - self.started_at


class Caller:
    """One client connection, dialled when needed and again when it has ended."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        assert parts.hostname is not None
        assert parts.port is not None
        self._host, self._port = parts.hostname, parts.port
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._wire = h11.Connection(h11.CLIENT)

    async def ask(self, method: str, target: str, *, body: bytes = b"", fields: Iterable[tuple[str, str]] = ()) -> Answer:
        """One exchange; ConnectionError or h11.ProtocolError when it breaks."""
        started_at = time.time()
        if self._writer is None:
            self._reader, self._writer = await asyncio.open_connection(self._host, self._port)
            self._wire = h11.Connection(h11.CLIENT)
        headers = [("Host", "localhost"), ("Content-Length", str(len(body))), *fields]
        wire = self._wire
        head, payload, end = h11.Request(method=method, target=target, headers=headers), h11.Data(data=body), h11.EndOfMessage()
        self._writer.write(b"".join(wire.send(event) or b"" for event in ([head, payload, end] if body else [head, end])))
        await self._writer.drain()
        response: h11.Response | None = None
        got = b""
        while not isinstance(event := await self._next(), h11.EndOfMessage):
            if isinstance(event, h11.Response):
                response = event
            elif isinstance(event, h11.Data):
                got += event.data
                assert len(got) <= ANSWER_LIMIT_BYTES, "an answer beyond all measure"
            else:
                raise ConnectionError(f"the connection ended before the answer did ({event!r})")
        assert response is not None
        if wire.our_state is h11.DONE and wire.their_state is h11.DONE:
            wire.start_next_cycle()
        else:
            await self.close()
        named = {name.decode(): value.decode("latin-1") for name, value in response.headers}
        return Answer(started_at=started_at, ended_at=time.time(), status=response.status_code, fields=named, body=got)

    async def close(self) -> None:
        """Hang up."""
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def _next(self) -> Any:
        assert self._reader is not None
        while (event := self._wire.next_event()) is h11.NEED_DATA:
            self._wire.receive_data(await self._reader.read(65536))
        return event


async def ask(url: str, target: str, *, method: str = "GET", body: bytes = b"", fields: Iterable[tuple[str, str]] = ()) -> Answer:
    """One exchange on a connection of its own."""
    caller = Caller(url)
    try:
        async with asyncio.timeout(60.0):
            return await caller.ask(method, target, body=body, fields=fields)
    finally:
        await caller.close()


class Load:
    """`async with Load(url) as load:` keeps callers busy until the block ends; `answers` fills meanwhile, in the order of completion."""

    def __init__(self, url: str, *, callers: int = 4, every_s: float = 0.04) -> None:
        self.answers: list[Answer] = []
        self._url = url
        self._callers = callers
        self._every_s = every_s
        self._enough = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def failed(self) -> list[Answer]:
        """Whatever is not a right answer with 200."""
        return [one for one in self.answers if one.status != 200 or one.wrong]

    async def __aenter__(self) -> Self:
        self._tasks = [asyncio.create_task(self._call(number)) for number in range(self._callers)]
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._enough.set()
        async with asyncio.timeout(60.0):
            await asyncio.gather(*self._tasks)

    async def _call(self, number: int) -> None:
        caller, count = Caller(self._url), 0
        try:
            while not self._enough.is_set():
                count += 1
                self.answers.append(
                    await self._one(caller, f"/load/{number}/{count}", b"%d %d " % (number, count) * 50 if count % 2 else b"")
                )
                with contextlib.suppress(TimeoutError):  # the pace of this caller
                    async with asyncio.timeout(self._every_s):
                        await self._enough.wait()
        finally:
            await caller.close()

    async def _one(self, caller: Caller, target: str, body: bytes) -> Answer:
        started_at = time.time()
        try:
            answer = await caller.ask("POST" if body else "GET", target, body=body)
        except (OSError, h11.ProtocolError) as broken:
            await caller.close()
            return Answer(started_at=started_at, ended_at=time.time(), status=0, fields={}, body=b"", wrong=repr(broken))
        if answer.status != 200:
            return answer
        seen = answer.document
        wrong = "" if (seen["target"], seen["body"]) == (target, hashlib.sha256(body).hexdigest()) else f"{target} was answered with {seen}"
        return Answer(
            started_at=answer.started_at, ended_at=answer.ended_at, status=200, fields=answer.fields, body=answer.body, wrong=wrong
        )


def check_the_end(
    load: Load, *, slack_s: float, lives_s: tuple[float, float], expires_at: float, ended_at: float, recovered_at: float
) -> None:
    """200 to everybody until a tenth of the life before `exp` (never inject a token with less left), 503 to everybody from then on.

    `lives_s`: the least and the most that the token had left when the sidecar first saw it. `ended_at`: when the platform was mended;
    `recovered_at`: when a request first carried the next token.
    """
    first_end_at, last_end_at = expires_at - max(lives_s) / 10, expires_at - min(lives_s) / 10
    early = [one for one in load.failed if one.ended_at < first_end_at - slack_s]
    assert not early, f"refused {first_end_at - early[0].ended_at:.3f} s before the token was past its use: {early[:3]}"
    late = [one for one in load.answers if one.status == 200 and last_end_at + slack_s < one.started_at and one.ended_at < ended_at]
    assert not late, f"served {late[0].started_at - last_end_at:.3f} s after the token was past its use: {late[:3]}"
    after = [one for one in load.failed if one.started_at > recovered_at + slack_s]
    assert not after, f"refused after the recovery: {after[:3]}"
    assert {(one.status, one.code) for one in load.failed} <= {(503, "identity_expired"), (503, "identity_unavailable")}
    assert load.failed, "it never came to an end"

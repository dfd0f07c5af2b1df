"""When a request may be sent again, and when never: the keep-alive race, and ten thousand POSTs of which none arrives twice (J3, J4)."""

import asyncio
import random
import socket
import struct
from collections import Counter
from pathlib import Path

import pytest
from tests.corpus.judge import check_problem
from tests.corpus.rig import DEADLINE_S, PONG, Rig, unsigned_token
from tests.journeys.life import exchanges, metric, serving

from robin.testing.connection import ScriptedConnection
from robin.testing.message import ReceivedRequest
from robin.testing.waiting import eventually

POSTS = 10_000
CALLERS = 16


def request(method: str, body: bytes = b"", *fields: str) -> bytes:
    framing = [f"Content-Length: {len(body)}"] if body else []
    return "\r\n".join([f"{method} /x HTTP/1.1", "Host: localhost", *framing, *fields, "", ""]).encode() + body


class DiesOnSecond:
    """Answers the first request of a connection; at a later one ends it in some way. `limit`: so many connections die, the rest live."""

    def __init__(self, ending: str, *, limit: int = 1, said: bytes = b"") -> None:
        self.ending = ending
        self.said = said
        self.left = limit
        self.served: Counter[ScriptedConnection] = Counter()

    async def __call__(self, connection: ScriptedConnection, received: ReceivedRequest) -> None:
        self.served[connection] += 1
        if self.served[connection] > 1 and self.left:
            self.left -= 1
            if self.said:
                await connection.send(self.said)
            await (connection.reset() if self.ending == "reset" else connection.close())
            return
        await connection.send(PONG[:-4] if received.method == b"HEAD" else PONG)


async def on_reused(rig: Rig, raw: bytes, method: bytes):
    """The answer to `raw` on a connection that has carried a request before."""
    assert (await rig.ask(request("GET"))).status == 200
    return await rig.ask(raw, method)


@pytest.mark.parametrize("ending", ["close", "reset"])
@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "PUT", "DELETE"])
async def test_j3_a_reused_connection_that_ends_without_a_byte_is_replaced_once(tmp_path: Path, method: str, ending: str):
    async with serving(tmp_path) as rig:
        rig.reply = DiesOnSecond(ending)
        assert (await on_reused(rig, request(method), method.encode())).status == 200
        assert len(rig.upstream.connections) == 2
        assert [seen.method.decode() for _, seen in rig.seen] == ["GET", method, method]
        assert rig.seen[2][0] is rig.upstream.connections[1], "on a new connection"
        assert await metric(rig.robin, "robin_upstream_retries_total") == 1
        await eventually(lambda: len(exchanges(rig)) == 2, what="the records")
        assert [(record["outcome"], record["retries"]) for record in exchanges(rig)] == [("forwarded", 0), ("forwarded", 1)]


async def test_j3_the_second_try_carries_the_token_of_its_own_moment(tmp_path: Path):
    async with serving(tmp_path) as rig:
        old, new = rig.token, unsigned_token(n=2)
        dies = DiesOnSecond("close")

        async def rotating(connection: ScriptedConnection, received: ReceivedRequest) -> None:
            if len(rig.seen) == 2:
                rig.token_file.write_bytes(new)
            await dies(connection, received)

        rig.reply = rotating
        assert (await on_reused(rig, request("GET"), b"GET")).status == 200
        assert [seen.values(b"authorization") for _, seen in rig.seen] == [[b"Bearer " + token] for token in (old, old, new)]


async def test_j3_there_is_no_third_try(tmp_path: Path):
    async with serving(tmp_path) as rig:

        async def dead(connection: ScriptedConnection, _: ReceivedRequest) -> None:
            if len(rig.seen) == 1:
                await connection.send(PONG)
            else:
                await connection.close()

        rig.reply = dead
        check_problem(await on_reused(rig, request("GET"), b"GET"), "upstream_closed")
        assert len(rig.seen) == 3


async def test_j3_the_new_connection_is_new_even_when_others_are_idle(tmp_path: Path):
    """After a restart of the upstream all idle connections are dead at once: the second try must not meet the next corpse."""
    async with serving(tmp_path) as rig:
        release = asyncio.Event()

        async def together(connection: ScriptedConnection, _: ReceivedRequest) -> None:
            await release.wait()
            await connection.send(PONG)

        rig.reply = together
        callers = [await rig.caller() for _ in range(5)]
        for caller in callers:
            caller.send(request("GET"))
        await eventually(lambda: len(rig.seen) == 5, what="five requests at once")
        release.set()
        for caller in callers:
            assert (await caller.answer()).status == 200
        rig.reply = DiesOnSecond("close", limit=5)
        for connection in rig.upstream.connections:
            rig.reply.served[connection] = 1
        for caller in callers:
            caller.send(request("GET"))
            assert (await caller.answer()).status == 200


@pytest.mark.parametrize("ending", ["close", "reset"])
@pytest.mark.parametrize(
    ("raw", "why"),
    [
        (request("POST"), "POST"),
        (request("POST", b"body"), "POST with a body"),
        (request("PATCH", b"body"), "PATCH"),
        (request("PUT", b"body"), "its body was read and is gone"),
    ],
)
async def test_j4_what_must_not_be_repeated_is_502_after_one_delivery(tmp_path: Path, raw: bytes, why: str, ending: str):
    async with serving(tmp_path) as rig:
        rig.reply = DiesOnSecond(ending)
        check_problem(await on_reused(rig, raw, raw.split(b" ")[0]), "upstream_closed")
        assert len(rig.seen) == 2, why
        assert len(rig.upstream.connections) == 1
        await eventually(lambda: len(exchanges(rig)) == 2, what="the records")
        assert [record["retries"] for record in exchanges(rig)] == [0, 0]


@pytest.mark.parametrize("method", ["PUT", "DELETE", "GET"])
@pytest.mark.parametrize("taken", [b"38\r\n", b"0\r\n", b"0\r\n\r\n"])
async def test_j4_a_chunk_line_that_was_taken_is_body_too_though_it_carries_no_data(tmp_path: Path, method: str, taken: bytes):
    """Sent again, what is left would be read as chunk lines from its middle on: body bytes became a request of their own."""
    async with serving(tmp_path) as rig:
        dead = asyncio.Event()

        async def script(connection: ScriptedConnection) -> None:
            rig.seen.append((connection, await connection.read_request()))
            await connection.send(PONG)
            await connection.read_until(b"\r\n\r\n")
            await connection.close()
            dead.set()

        rig.upstream.script = script
        caller = await rig.caller()
        caller.send(request("GET"))
        assert (await caller.answer()).status == 200
        caller.send(request(method, b"", "Transfer-Encoding: chunked") + taken)
        await asyncio.wait_for(dead.wait(), DEADLINE_S)
        answer = await caller.answer(method.encode())
        check_problem(answer, "upstream_closed")
        caller.send(b"0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await caller.closed()
        assert caller.rest == b""
        assert len(rig.upstream.connections) == 1


async def test_j4_a_fresh_connection_that_ends_is_502_even_for_get(tmp_path: Path):
    async with serving(tmp_path) as rig:

        async def dead(connection: ScriptedConnection, _: ReceivedRequest) -> None:
            await connection.close()

        rig.reply = dead
        check_problem(await rig.ask(request("GET")), "upstream_closed")
        assert len(rig.upstream.connections) == 1


@pytest.mark.parametrize("said", [b"H", b"HTTP/1.1 200 OK\r\nContent-Le", b"HTTP/1.1 103 Early Hints\r\n\r\n"])
async def test_j4_a_connection_that_said_a_byte_is_no_reason_to_repeat(tmp_path: Path, said: bytes):
    async with serving(tmp_path) as rig:
        rig.reply = DiesOnSecond("close", said=said)
        answer = await on_reused(rig, request("GET"), b"GET")
        check_problem(answer, "upstream_closed")
        assert len(rig.seen) == 2


class RandomOrigin(asyncio.Protocol):
    """An origin that ends its connections at random moments: at once, before or after reading, before or after answering, by FIN or RST."""

    def __init__(self, chance: random.Random, delivered: Counter[bytes]) -> None:
        self._chance = chance
        self._delivered = delivered
        self._received = bytearray()
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        if self._chance.random() < 0.02:
            transport.close()

    def data_received(self, data: bytes) -> None:
        self._received += data
        while (end := self._received.find(b"\r\n\r\n")) >= 0 and len(self._received) >= end + 12:
            if self._transport.is_closing():
                return
            fate = self._chance.random()
            if fate < 0.03:
                self._end(fate < 0.015)
                return
            self._delivered[bytes(self._received[end + 4 : end + 12])] += 1
            del self._received[: end + 12]
            if fate < 0.08:
                self._end(fate < 0.05)
                return
            self._transport.write(PONG)
            if fate < 0.25:
                self._end(False)  # the keep-alive race: Robin may be sending the next one already

    def _end(self, by_reset: bool) -> None:
        if not by_reset:
            self._transport.close()
            return
        self._transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._transport.abort()


async def post_all(rig: Rig, numbers: list[int], answers: dict[bytes, int]) -> None:
    """Each number once, one after the other, on connections that Robin keeps."""
    reader, writer = await asyncio.open_connection(*rig.address)
    for number in numbers:
        mark = b"%08d" % number
        writer.write(request("POST", mark))
        head = await reader.readuntil(b"\r\n\r\n")
        await reader.readexactly(int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0]))
        answers[mark] = int(head[9:12])
    writer.close()
    await writer.wait_closed()


async def test_j4_of_ten_thousand_posts_to_an_upstream_that_closes_at_random_none_arrives_twice(tmp_path: Path):
    chance = random.Random(20240711)
    delivered: Counter[bytes] = Counter()
    answers: dict[bytes, int] = {}
    server = await asyncio.get_running_loop().create_server(lambda: RandomOrigin(chance, delivered), "127.0.0.1", 0)
    async with server, serving(tmp_path, url=f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}") as rig:
        async with asyncio.timeout(100), asyncio.TaskGroup() as callers:
            for first in range(CALLERS):
                callers.create_task(post_all(rig, list(range(first, POSTS, CALLERS)), answers))
        assert await metric(rig.robin, "robin_upstream_retries_total") == 0
    assert len(answers) == POSTS
    assert set(answers.values()) == {200, 502}
    assert max(delivered.values()) == 1, "a POST was repeated"
    assert all(delivered[mark] == 1 for mark, status in answers.items() if status == 200)
    failed = sum(status == 502 for status in answers.values())
    assert POSTS * 0.05 < failed < POSTS * 0.3, failed
    assert sum(delivered.values()) > POSTS * 0.8

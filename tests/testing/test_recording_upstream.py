"""RecordingUpstream: scripted answers, plain and over TLS, and no failure of a script goes unheard."""

import asyncio

import pytest

from robin.testing.connection import ScriptedConnection
from robin.testing.message import MalformedRequest
from robin.testing.recording_upstream import RecordingUpstream, answer, response


async def ask(upstream: RecordingUpstream, *requests: bytes, name: str | None = None, tls=None) -> bytes:
    """Send the requests on one connection, FIN, and read to the end."""
    reader, writer = await asyncio.open_connection("127.0.0.1", upstream.port, ssl=tls, server_hostname=name)
    writer.writelines(requests)
    if tls is None:
        writer.write_eof()
    answered = await reader.read() if tls is None else await reader.readuntil(b"\r\n\r\n")
    writer.close()
    await writer.wait_closed()
    return answered


GET = b"GET /%d HTTP/1.1\r\nHost: x\r\n\r\n"


async def test_the_nth_request_gets_the_nth_answer_and_the_last_one_repeats():
    async with RecordingUpstream(answer(response(201, b"one", ("X-N", "1")), response(404, b"two", reason="Not Found"))) as upstream:
        first = await ask(upstream, GET % 1)
        rest = await ask(upstream, GET % 2, GET % 3)
    assert first == b"HTTP/1.1 201 OK\r\nX-N: 1\r\nContent-Length: 3\r\n\r\none"
    assert rest == b"HTTP/1.1 404 Not Found\r\nContent-Length: 3\r\n\r\ntwo" * 2
    assert [request.target for request in upstream.requests] == [b"/1", b"/2", b"/3"]
    assert len(upstream.connections) == 2


async def test_close_ends_the_connection_after_each_answer():
    async with RecordingUpstream(answer(close=True)) as upstream:
        assert (await ask(upstream, GET % 1, GET % 2)).count(b"HTTP/1.1 200 OK") == 1


async def test_tls_shows_the_leaf_and_records_what_was_inside(certificates):
    leaf = certificates.issue("localhost")
    async with RecordingUpstream(tls=leaf.server_context()) as upstream:
        assert upstream.url_as("localhost") == f"https://localhost:{upstream.port}"
        await ask(upstream, GET % 1, name="localhost", tls=certificates.client_context())
        assert bytes(upstream.connections[0].received) == GET % 1


async def test_a_malformed_request_fails_the_test_that_sent_it():
    with pytest.raises(BaseExceptionGroup) as caught:
        async with RecordingUpstream() as upstream:
            await ask(upstream, b"GET / HTTP/1.1\r\nbroken\r\n\r\n")
    assert caught.group_contains(MalformedRequest)


async def test_a_bug_in_a_script_is_not_lost():
    async def script(connection: ScriptedConnection) -> None:
        raise ZeroDivisionError

    with pytest.raises(BaseExceptionGroup) as caught:
        async with RecordingUpstream(script) as upstream:
            await ask(upstream)
    assert caught.group_contains(ZeroDivisionError)


async def test_it_can_stop_listening_and_come_back_on_the_same_port():
    async with RecordingUpstream() as upstream:
        port = upstream.port
        await upstream.stop_listening()
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", port)
        await upstream.start()
        assert upstream.port == port
        assert b"200 OK" in await ask(upstream, GET % 1)


async def test_closing_ends_a_script_that_would_wait_for_ever():
    stopped = asyncio.Event()

    async def script(connection: ScriptedConnection) -> None:
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            stopped.set()

    async with RecordingUpstream(script) as upstream:
        _, writer = await asyncio.open_connection("127.0.0.1", upstream.port)
        await upstream.connection()
    assert stopped.is_set()
    writer.close()

"""ScriptedServer: a script per connection, counted while it lives; test_recording_upstream shows the rest through its public face."""

import asyncio

import pytest

from robin.testing.connection import ScriptedConnection
from robin.testing.server import FAILURES_KEPT, ScriptedServer
from robin.testing.waiting import eventually


async def shout(connection: ScriptedConnection) -> None:
    await connection.send((await connection.read_until(b"\n")).upper())


async def fail(connection: ScriptedConnection) -> None:
    raise LookupError


async def test_each_connection_runs_the_script_and_is_live_until_it_ends():
    async with ScriptedServer(shout) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        await eventually(lambda: len(server.live) == 1)
        writer.write(b"hello\n")
        assert await reader.read() == b"HELLO\n"
        await eventually(lambda: not server.live)
        writer.close()
        await writer.wait_closed()


async def test_closing_drops_who_is_still_there():
    async with ScriptedServer(shout) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        await eventually(lambda: server.live)
    assert await reader.read() == b""
    writer.close()
    await writer.wait_closed()


async def test_only_so_many_failures_are_kept():
    server = ScriptedServer(fail)
    await server.start()
    for _ in range(FAILURES_KEPT + 20):
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        assert await reader.read() == b""
        writer.close()
    with pytest.raises(BaseExceptionGroup) as caught:
        await server.close()
    assert len(caught.value.exceptions) == FAILURES_KEPT
    assert caught.group_contains(LookupError)


async def test_the_error_of_the_test_itself_is_not_hidden_by_one_of_a_script():
    async def test() -> None:
        async with ScriptedServer(fail) as server:
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            assert await reader.read() == b""
            writer.close()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError) as caught:
        await test()
    assert "LookupError" in caught.value.__notes__[0]


@pytest.mark.parametrize(("host", "url"), [("127.0.0.1", "http://127.0.0.1:"), ("::1", "http://[::1]:")])
async def test_the_url_has_the_address_as_it_is_written_in_one(host, url):
    async with ScriptedServer(shout, host=host) as server:
        assert server.url == f"{url}{server.port}"

"""A scripted server hides no failure: whatever its script raised ends the test, and the error of the test itself comes first."""

import asyncio
import gc
import subprocess
import sys

import pytest

from robin.testing.connection import ScriptedConnection
from robin.testing.message import MalformedRequest
from robin.testing.recording_upstream import RecordingUpstream
from robin.testing.server import FAILURES_KEPT, ScriptedServer, hold_port
from robin.testing.waiting import eventually


async def fail(connection: ScriptedConnection) -> None:
    raise LookupError


async def ask(port: int, request: bytes = b"") -> bytes:
    """Send the request and FIN, and read to the end."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request)
    writer.write_eof()
    answered = await reader.read()
    writer.close()
    return answered


async def test_a_malformed_request_fails_the_test_that_sent_it():
    with pytest.raises(BaseExceptionGroup) as caught:
        async with RecordingUpstream() as upstream:
            await ask(upstream.port, b"GET / HTTP/1.1\r\nbroken\r\n\r\n")
    assert caught.group_contains(MalformedRequest)


async def test_an_error_in_a_script_fails_the_test_and_so_many_are_kept():
    server = ScriptedServer(fail)
    await server.start()
    for _ in range(FAILURES_KEPT + 20):
        assert await ask(server.port) == b""
    with pytest.raises(BaseExceptionGroup) as caught:
        await server.close()
    assert len(caught.value.exceptions) == FAILURES_KEPT
    assert caught.group_contains(LookupError)


async def test_the_error_of_the_test_itself_is_not_hidden_by_one_of_a_script():
    async def test() -> None:
        async with ScriptedServer(fail) as server:
            assert await ask(server.port) == b""
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError) as caught:
        await test()
    assert "LookupError" in caught.value.__notes__[0]


def test_a_port_in_use_is_refused_and_no_socket_stays_open():
    with hold_port("127.0.0.1") as taken:
        taken.listen()
        with pytest.raises(OSError, match="in use"):
            hold_port("127.0.0.1", taken.getsockname()[1])
        gc.collect()  # of a socket that stays open comes a ResourceWarning, and of that a failure


def test_the_ports_that_are_held_for_tests_are_closed_at_the_end_of_the_process():
    code = "from robin.testing.process import free_port; free_port()"
    done = subprocess.run([sys.executable, "-X", "dev", "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stderr == ""


async def test_a_server_that_closes_drops_what_a_script_left_unsent():
    """As of a pod that was deleted: its end takes nothing any more, and never says so."""

    async def send(connection: ScriptedConnection) -> None:
        connection.transport.write(bytes(64 << 20))

    async with ScriptedServer(send) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        assert await reader.read(1) == b"\0"
        await eventually(lambda: not server.live, what="the end of the script")
    assert len(await reader.read()) < (64 << 20) - 1
    writer.close()

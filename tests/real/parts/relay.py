"""A TCP port in front of a unix socket: a Workload API over TCP, where the agent itself offers only the socket (as SPIRE does).

The agent sees the relay's process as the caller. Usage: relay.py UNIX_SOCKET; the port is the first line on stdout.
"""

import asyncio
import contextlib
import sys

READ_BYTES = 65536


async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Until either side has had enough; a half close is passed on."""
    with contextlib.suppress(ConnectionError):
        while chunk := await reader.read(READ_BYTES):
            writer.write(chunk)
            await writer.drain()
        writer.write_eof()


async def serve(socket: str) -> None:
    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            agent_reader, agent_writer = await asyncio.open_unix_connection(socket)
        except OSError:
            writer.transport.abort()  # no agent: the caller sees a reset, as from a port that nobody serves for long
            return
        try:
            await asyncio.gather(copy(reader, agent_writer), copy(agent_reader, writer))
        finally:
            agent_writer.close()
            writer.close()

    server = await asyncio.start_server(relay, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(serve(sys.argv[1]))

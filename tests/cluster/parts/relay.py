"""A port of this machine's loopback in front of one in another process's network: sockets stay in the network where they were opened.

Usage: python -m tests.cluster.parts.relay PORT PID HOST PORT_THERE. Ends when the process that it was started for ends.
"""

import asyncio
import contextlib
import socket
import sys

from tests.real.parts.namespaces import network_of
from tests.real.parts.relay import copy


async def serve(listener: socket.socket, host: str, port: int) -> None:
    """Relay each connection; a dial that fails resets its caller."""

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            far_reader, far_writer = await asyncio.open_connection(host, port)
        except OSError:
            writer.transport.abort()
            return
        try:
            await asyncio.gather(copy(reader, far_writer), copy(far_reader, writer), return_exceptions=True)
        finally:
            far_writer.close()
            writer.close()

    server = await asyncio.start_server(relay, sock=listener)
    await server.serve_forever()


def main() -> None:
    port, pid, host, port_there = sys.argv[1:]
    listener = socket.create_server(("127.0.0.1", int(port)))
    with network_of(int(pid)), contextlib.suppress(KeyboardInterrupt):
        asyncio.run(serve(listener, host, int(port_there)))


if __name__ == "__main__":
    main()

"""What tests of test servers need: one request over its own connection, read to the end, and a port that is taken."""

import asyncio
import contextlib
import socket


async def ask(
    port: int, target: str, *fields: tuple[str, str], method: str = "GET", body: bytes = b""
) -> tuple[int, dict[str, str], bytes]:
    """Status, fields (names in lower case) and the bytes after the head."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    lines = "".join(f"{name}: {value}\r\n" for name, value in (("Host", "x"), ("Connection", "close"), *fields))
    length = f"Content-Length: {len(body)}\r\n" if body else ""
    writer.write(f"{method} {target} HTTP/1.1\r\n{lines}{length}\r\n".encode("latin-1") + body)
    async with asyncio.timeout(30):
        answered = await reader.read()
    writer.close()
    await writer.wait_closed()
    return split_answer(answered)


def split_answer(answered: bytes) -> tuple[int, dict[str, str], bytes]:
    """Status, fields and the rest of one answer."""
    head, _, rest = answered.partition(b"\r\n\r\n")
    status_line, *lines = head.decode("latin-1").split("\r\n")
    pairs = (line.partition(": ") for line in lines)
    return int(status_line.split(" ")[1]), {name.lower(): value for name, _, value in pairs}, rest


def port_above_a_free_one() -> socket.socket:
    """A listening socket whose port has a free port just below it."""
    while True:
        taken = socket.create_server(("127.0.0.1", 0))
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", taken.getsockname()[1] - 1)):
            return taken
        taken.close()

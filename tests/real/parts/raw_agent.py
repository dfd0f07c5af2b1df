"""Raw HTTP/1.1 requests of an agent to `robin kube`, byte for byte as they are written down, on a few connections at a time."""

import asyncio
import ssl
from collections.abc import Iterable
from dataclasses import dataclass

from tests.real.parts.kube_plane import Bed


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """One response. `decision` is Robin's id for the request, empty where it is none."""

    status: int
    decision: str
    body: bytes


def context_of(bed: Bed, agent: str = "a") -> ssl.SSLContext:
    """TLS as this agent, by a certificate of Robin's local CA."""
    context = ssl.create_default_context(cafile=str(bed.state.ca_file))
    issued = bed.state.issue_certificate(agent, 3600)
    pair = bed.folder / f"{agent}-raw.pem"
    pair.write_bytes(issued.key_pem + issued.certificate_pem)
    context.load_cert_chain(pair)
    return context


async def ask_all(bed: Bed, requests: Iterable[tuple[str, str, tuple[str, ...]]], *, connections: int = 6) -> list[Reply]:
    """Send (method, target, field lines) in any order. The replies are in the order of the requests."""
    waiting = list(enumerate(requests))
    waiting.reverse()
    replies: dict[int, Reply] = {}
    context = context_of(bed)

    async def work() -> None:
        reader = writer = None
        while waiting:
            at, (method, target, fields) = waiting.pop()
            if reader is None or writer is None:
                reader, writer = await asyncio.open_connection("127.0.0.1", bed.port, ssl=context)
            length = ["Content-Length: 0"] if method in ("POST", "PUT", "PATCH") and not fields else []
            writer.write("\r\n".join([f"{method} {target} HTTP/1.1", "Host: robin", *length, *fields]).encode("latin-1") + b"\r\n\r\n")
            reply, reusable = await asyncio.wait_for(_receive(reader, method), 60)
            replies[at] = reply
            if not reusable:
                writer.close()
                reader = writer = None
        if writer is not None:
            writer.close()

    await asyncio.gather(*(work() for _ in range(connections)))
    return [replies[at] for at in sorted(replies)]


async def _receive(reader: asyncio.StreamReader, method: str) -> tuple[Reply, bool]:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    line, *lines = head.rstrip().split("\r\n")
    status = int(line.split(" ")[1])
    fields = {name.lower(): value.strip() for name, _, value in (one.partition(":") for one in lines)}
    body = b""
    if method != "HEAD" and status not in (204, 304):
        if fields.get("transfer-encoding") == "chunked":
            while size := int(await reader.readuntil(b"\r\n"), 16):
                body += (await reader.readexactly(size + 2))[:-2]
            await reader.readexactly(2)
        else:
            body = await reader.readexactly(int(fields.get("content-length", "0")))
    return Reply(status=status, decision=fields.get("robin-decision", ""), body=body), fields.get("connection") != "close"

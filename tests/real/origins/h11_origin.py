"""An origin made of h11, a pure Python parser: it answers with what it parsed, in hexadecimal JSON; `n` counts whole requests."""

import asyncio
import contextlib
import itertools
import json

import h11

READ_BYTES = 65536
COUNT = itertools.count(1)


def echo(request: h11.Request, body: bytes) -> list[h11.Event]:
    """The answer."""
    document = {
        "n": next(COUNT),
        "method": request.method.hex(),
        "target": request.target.hex(),
        "fields": [[name.hex(), value.hex()] for name, value in request.headers.raw_items()],
        "body": body.hex(),
    }
    text = json.dumps(document).encode()
    fields = [("Content-Length", str(len(text))), ("X-Origin", "h11")]
    if request.method == b"HEAD":
        return [h11.Response(status_code=200, headers=[*fields, ("X-Echo", text)]), h11.EndOfMessage()]
    return [h11.Response(status_code=200, headers=fields), h11.Data(data=text), h11.EndOfMessage()]


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """One connection."""
    wire = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 20)
    request: h11.Request | None = None
    body = b""
    with contextlib.suppress(h11.RemoteProtocolError, ConnectionError):
        while True:
            event = wire.next_event()
            if event is h11.NEED_DATA:
                if wire.they_are_waiting_for_100_continue:
                    writer.write(wire.send(h11.InformationalResponse(status_code=100, headers=[])) or b"")
                wire.receive_data(await reader.read(READ_BYTES))
            elif isinstance(event, h11.Request):
                request, body = event, b""
            elif isinstance(event, h11.Data):
                body += event.data
            elif isinstance(event, h11.EndOfMessage):
                assert request is not None
                for part in echo(request, body):
                    writer.write(wire.send(part) or b"")
                await writer.drain()
                if wire.our_state is h11.MUST_CLOSE:
                    break
                wire.start_next_cycle()
            else:
                break
    writer.close()


async def main() -> None:
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())

"""An origin made of aiohttp with its pure Python parser: it answers with what it parsed, in hexadecimal JSON; `n` counts whole requests."""

import asyncio
import itertools
import json

from aiohttp import http_parser, web

COUNT = itertools.count(1)
assert http_parser.HttpRequestParser is http_parser.HttpRequestParserPy, "run me with AIOHTTP_NO_EXTENSIONS=1"


async def echo(request: web.BaseRequest) -> web.Response:
    body = await request.read()
    document = {
        "n": next(COUNT),
        "method": request.method.encode().hex(),
        "target": raw_target(request),
        "fields": [[name.hex(), value.hex()] for name, value in request.raw_headers],
        "body": body.hex(),
    }
    text = json.dumps(document)
    return web.Response(text=text, headers={"X-Origin": "aiohttp", **({"X-Echo": text} if request.method == "HEAD" else {})})


def raw_target(request: web.BaseRequest) -> str:
    """The target as the parser cut it out, before any URL library saw it."""
    return request._message.path.encode("utf-8", "surrogateescape").hex()


async def main() -> None:
    server = web.Server(echo, max_line_size=1 << 17, max_field_size=1 << 17, max_headers=1000)
    runner = web.ServerRunner(server)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    print(runner.addresses[0][1], flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())

"""One GET and one POST with the client that the first argument names; one JSON object a line for each."""

import asyncio
import importlib
import json
import sys

LIBRARY, URL = sys.argv[1:3]
BODY = b"x" * 300_000


def tell(step: str, status: int, text: str) -> None:
    print(json.dumps({"step": step, "got": [status, text[:40]]}))


async def use_aiohttp(*, trust_env: bool) -> None:
    import aiohttp  # noqa: PLC0415 - the others do without it

    async with aiohttp.ClientSession(trust_env=trust_env) as session:
        async with session.get(URL) as response:
            tell("get", response.status, await response.text())
        async with session.post(URL, data=BODY) as response:
            tell("post", response.status, await response.text())


if LIBRARY.startswith("aiohttp"):
    asyncio.run(use_aiohttp(trust_env=LIBRARY == "aiohttp"))
else:
    client = importlib.import_module(LIBRARY)
    for step, response in (("get", client.get(URL)), ("post", client.post(URL, data=BODY))):
        tell(step, response.status_code, response.text)

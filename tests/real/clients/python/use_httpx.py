"""httpx as an application uses it: Client and AsyncClient with a base URL, HTTP/2 allowed (on cleartext it must stay on 1.1)."""

import asyncio
import os

import httpx
from telling import tell

BASE = os.environ["BASE_URL"]
KEY = {"Authorization": f"Bearer {os.environ['PLACEHOLDER']}", "X-Api-Key": os.environ["PLACEHOLDER"]}


def blocking() -> None:
    with httpx.Client(base_url=BASE, headers=KEY, http2=True, follow_redirects=True) as client:
        tell("get", [client.get("/echo", params={"q": "1"}).json()["target"], client.get("/echo").http_version])
        tell("post", client.post("/echo", content=b"x" * 1_000_000).json()["body"])
        tell("chunked", client.post("/echo", content=iter([b"a", b"b" * 70_000, b"c"])).json())
        tell("redirect", client.get("/redirect", params={"to": "/echo?moved"}).json()["target"])
        with client.stream("GET", "/paused") as paused:
            tell("paused", [line for line in paused.iter_lines() if line])
        tell("after", client.get("/echo?after").status_code)


async def concurrent() -> None:
    async with httpx.AsyncClient(base_url=BASE, headers=KEY) as client:

        async def pieces():
            for number in range(50):
                yield b"%d" % number

        answers = await asyncio.gather(*(client.post(f"/echo?{number}", content=pieces()) for number in range(50)))
        tell("concurrent", sorted(int(answer.json()["target"].partition("?")[2]) for answer in answers) == list(range(50)))
        async with client.stream("GET", "/endless") as endless:
            async for piece in endless.aiter_bytes(100):
                tell("left", len(piece))
                break
        try:
            await client.get("/endless", timeout=httpx.Timeout(5, read=0.0001))
        except httpx.TimeoutException as error:
            tell("timeout", type(error).__name__)
        tell("last", (await client.get("/echo?last")).status_code)


if __name__ == "__main__":
    blocking()
    asyncio.run(concurrent())

"""aiohttp as an application uses it: a ClientSession with a base URL; its C parser, its expectations, its WebSocket."""

import asyncio
import os

import aiohttp
from telling import tell

BASE = os.environ["BASE_URL"]


async def main() -> None:
    key = {"Authorization": f"Bearer {os.environ['PLACEHOLDER']}"}
    async with aiohttp.ClientSession(BASE, headers=key) as session:

        async def document(method: str, path: str, **choices):
            async with session.request(method, path, **choices) as answer:
                return await answer.json()

        async def pieces():
            for _ in range(100):
                yield b"0123456789" * 1000

        tell("get", (await document("GET", "/echo?x=%25"))["target"])
        tell("post", (await document("POST", "/echo", data=b"y" * 3_000_000))["body"]["bytes"])
        tell("chunked", await document("POST", "/echo", data=pieces()))
        expected = await document("POST", "/echo", data=b"expected", expect100=True)
        tell("expect", [expected["body"]["bytes"], dict(expected["fields"]).get("Expect")])
        form = aiohttp.FormData()
        form.add_field("f", b"q" * 100_000, filename="f.bin")
        tell("form", (await document("POST", "/echo", data=form))["body"]["bytes"] > 100_000)
        gathered = await asyncio.gather(*(document("GET", f"/echo?{number}") for number in range(100)))
        tell("concurrent", [one["target"] for one in gathered] == [f"/echo?{number}" for number in range(100)])
        async with session.get("/large") as large:
            tell("large", len(await large.read()))
        async with session.get("/paused") as paused:
            tell("paused", [line.decode().strip() async for line in paused.content if line.strip()])
        async with session.get("/endless") as endless:
            tell("left", len(await endless.content.readexactly(100)))
        tell("last", (await document("GET", "/echo?last"))["target"])


if __name__ == "__main__":
    asyncio.run(main())

"""Two replicas of a gateway behind one Service share nothing: what that costs, in numbers (docs/how-to/scale-the-gateway.md)."""

import asyncio
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

from tests.grants.proxied import World, world

from robin.testing.embedded_gateway import EmbeddedGateway

RAW = {"name": "raw", "hosts": ["b.localhost"], "schemes": ["tcp"], "ports": ["PORT"]}
SECTION: dict[str, Any] = {"policy": {"rules": [RAW]}, "limits": {"tunnels_per_caller": 16}}


async def test_two_replicas_obtain_two_tokens_for_one_and_let_a_caller_have_32_tunnels_for_16(tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("one", "two")]
    for folder in folders:
        folder.mkdir()
    writers: list[asyncio.StreamWriter] = []

    async def connect(gateway: EmbeddedGateway, port: int) -> int:
        reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
        writers.append(writer)
        writer.write(f"CONNECT b.localhost:{port} HTTP/1.1\r\nHost: b.localhost:{port}\r\n\r\n".encode())
        return int((await reader.readuntil(b"\r\n\r\n")).split()[1])

    async with world(folders[0], section=SECTION) as one:
        for name in ("robin.yaml", "p.yaml"):
            shutil.copy(folders[0] / name, folders[1])
        async with EmbeddedGateway(folders[1] / "robin.yaml", one.identities, clock=one.clock) as second:
            two = World(second, one.issuer, one.origin, one.identities, lambda: None, one.clock)
            issued = []
            for replica in (one, one, two, two):
                assert (await replica.ask()).status == 200
                issued.append(len(one.issuer.seen))
            assert issued == [1, 1, 2, 2], "each has its own cache"

            found = [Counter([await connect(at.gateway, one.origin.port) for _ in range(17)]) for at in (one, two)]
            assert found == [{200: 16, 429: 1}] * 2, "each has its own limits"

            chains = [[line["seq"] for line in at.gateway.lines if "seq" in line] for at in (one, two)]
            assert [chain[:3] for chain in chains] == [[1, 2, 3]] * 2, "each has its own audit chain"
            for writer in writers:
                writer.close()

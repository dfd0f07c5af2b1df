"""What the record of an end has: why, how many octets, and how long connect and handshake took (gateway.md 11)."""

import asyncio
from pathlib import Path

import pytest
from tests.planes.gateway.echoing import echoing, ended
from tests.planes.gateway.rig import Client

TCP = {"name": "tcp", "hosts": ["a.test"], "schemes": ["tcp"], "ports": ["ECHO"]}
BRIDGED = {"name": "bridged", "hosts": ["a.test"], "ports": ["TLS"], "tls": "bridge"}


async def talk(client: Client) -> None:
    """Send, and be answered, until the end, which must not be an orderly one."""
    octet = b"x"
    while octet:
        client.writer.write(octet)
        await asyncio.sleep(0.1)
        octet = await client.reader.read(1)


async def test_each_end_has_its_reason_its_octets_and_how_its_connection_came_about(tmp_path: Path) -> None:  # E49, E50
    async with echoing(tmp_path, [TCP, BRIDGED], timeouts={"tunnel_idle": "1s", "tunnel_max": "2s"}) as (rig, own, _):
        echo, secure = f"a.test:{own.rpartition(':')[2]}", f"a.test:{rig.tls.port}"

        async def tunnel(octets: bytes) -> Client:
            client = await rig.client()
            assert (await client.connect(echo))[0] == 200
            client.writer.write(octets)
            assert await client.reader.readexactly(len(octets)) == octets
            return client

        idle, leaves, left = [await tunnel(bytes(size)) for size in (5, 3, 7)]
        leaves.writer.write_eof()
        left.writer.write(b"bye")
        for client in (leaves, left, idle):
            assert await ended(client) == b""
        busy = await tunnel(b"x")
        with pytest.raises(ConnectionResetError):  # it is not silent for long, and is cut all the same: a FIN would say that it was whole
            await talk(busy)
        bridge = await rig.client()
        await bridge.connect(secure)
        await bridge.start_tls("a.test", rig.ca_file)
        assert (await bridge.ask("GET / HTTP/1.1", f"Host: {secure}"))[0] == 200
        bridge.writer.close()
        outer = await rig.record("gateway.close", sni="a.test")
        ends = [one for one in rig.records if one["event"] == "gateway.close"]
    (inner,) = [one for one in ends if one["connect_id"] == outer["id"]]
    closes = {one["reason"]: one for one in ends if one["sni"] is None and not one["connect_id"]}
    octets = {reason: (one["bytes_up"], one["bytes_down"]) for reason, one in closes.items() if reason != "max_age"}
    assert octets == {"idle": (5, 5), "client_closed": (3, 3), "upstream_closed": (10, 7)}
    assert closes["max_age"]["duration_ms"] >= 2000
    opaque = closes["idle"]
    for one, dialled, handshake, reused, tls in (
        (outer, True, True, False, "1.3"),
        (inner, False, False, True, "1.3"),
        (opaque, True, False, False, None),
    ):
        upstream = one["upstream"]
        assert (one["connect_ms"] is not None, one["tls_ms"] is not None) == (dialled, handshake)
        assert (upstream["reused"], upstream["tls"], len(upstream["cert_sha256"] or "")) == (reused, tls, 64 if tls else 0)

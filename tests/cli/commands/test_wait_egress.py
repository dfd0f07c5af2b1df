"""`robin wait egress` and `robin canary` with real sockets: beside a real gateway, and one that says what a test likes (E60, E61)."""

import asyncio
import json
import signal
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.cli.conftest import RunRobin
from tests.planes.gateway.rig import running

from robin.cli.enforcement import GatewayPlace, GatewayReader
from robin.cli.main import main
from robin.cli.wait_egress import prove
from robin.testing.process import RobinProcess, free_port
from robin.testing.waiting import eventually
from robin.transport.clock import SystemClock

Output = pytest.CaptureFixture[str]


@contextmanager
def accepting() -> Iterator[tuple[socket.socket, str]]:
    """A place that this host reaches: the backlog of a socket that listens is enough."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as sock:
        yield sock, f"127.0.0.1:{sock.getsockname()[1]}"


async def egress(*words: str) -> int:
    """The command in this process, so that the servers of the test go on."""
    return await asyncio.to_thread(main, ["wait", "egress", *words])


async def test_e60_e61_a_real_gateway_its_canary_and_the_probe(tmp_path: Path, capsys: Output) -> None:
    """Gateway policies are not what is proven: the gateway is reached, and the canary directly too, so it is 4; without canary it is 5."""
    keys = tmp_path / "keys.json"
    keys.write_text('{"keys": []}')
    issuer = {"name": "c", "kind": "oidc", "issuer": "https://i.test", "audiences": ["g"], "jwks": {"file": str(keys)}}
    listener = {"auth": "jwt", "issuers": ["c"], "tls": {"minted_names": ["127.0.0.1"]}}
    with accepting() as (sock, canary):
        async with running(tmp_path, [], listener=listener, section={"issuers": [issuer], "canary": canary}, ready=False) as rig:

            async def client() -> Any:
                opened = await rig.client()
                await opened.start_tls("127.0.0.1", rig.ca_file)
                return opened

            one = await client()

            async def document(*, up: bool) -> dict[str, Any] | None:
                status, fields, body = await one.ask("GET /.robin/enforcement HTTP/1.1", "Host: any")
                assert (status, fields["cache-control"]) == (200, ["no-store"])
                read: dict[str, Any] = json.loads(body)
                return read if read["canary"]["up"] is up else None

            read = await eventually(lambda: document(up=True), what="a canary that is up")
            assert read is not None
            assert read["canary"]["addresses"] == [canary]
            assert len(read["ca"]) == 1
            for line in ("GET /.robin/enforcement?x HTTP/1.1", "POST /.robin/enforcement HTTP/1.1", "GET /.robin/x HTTP/1.1"):
                status, _, _ = await (await client()).ask(line, "Host: any")
                assert status == 407, line
            record = await rig.record("gateway.decision", op="local", verdict="permit")
            assert (record["code"], record["caller"]["id"]) == ("", "anonymous")

            there = ["--gateway", rig.address, "--timeout", "0"]
            assert await egress(*there, "--ca-file", str(rig.ca_file)) == 4
            assert f"{canary} answered directly" in capsys.readouterr().err
            assert await egress(*there, "--ca-file", str(rig.pki.ca_file)) == 3
            assert "its certificate is not trusted" in capsys.readouterr().err
            sock.close()
            assert await eventually(lambda: document(up=False), what="a canary that is down")
            assert await egress(*there, "--ca-file", str(rig.ca_file)) == 5
            assert "nothing can be proven" in capsys.readouterr().err
            assert await rig.metrics("robin_gateway_canary_up") == {"": 0}

            with accepting() as (_, other):  # a reload leads to another canary, or to none
                file = tmp_path / "robin.yaml"
                text = file.read_text()
                file.write_text(text.replace(canary, other))
                rig.robin.send_signal(signal.SIGHUP)
                read = await eventually(lambda: document(up=True), what="the other canary")
                assert read is not None
                assert read["canary"]["addresses"] == [other]
                assert json.loads((await rig.page("/status/gateway"))[1])["canary_up"] is True
                file.write_text(text.replace(f'"canary": "{canary}"', '"name": "robin-gateway"'))
                rig.robin.send_signal(signal.SIGHUP)

                async def without() -> bool:
                    _, _, body = await one.ask("GET /.robin/enforcement HTTP/1.1", "Host: any")
                    return json.loads(body)["canary"] is None

                await eventually(without, what="no canary")
                assert await rig.metrics("robin_gateway_canary_up") == {}


class Told:
    """A gateway without TLS that says what a test tells it. `advance`: it has looked at its canary again whenever it is asked."""

    def __init__(self) -> None:
        self.canary: dict[str, Any] | None = {"addresses": [f"127.0.0.1:{free_port()}"], "up": True}
        self.asked = self.looks = 0
        self.advance = True
        self.closes = False  # each connection after one document, as in a drain

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await reader.readuntil(b"\r\n\r\n"):
                self.asked += 1
                self.looks += self.advance
                canary = self.canary if self.canary is None else {"checked_at": str(self.looks), **self.canary}
                body = json.dumps({"canary": canary}).encode()
                close = b"Connection: close\r\n" * self.closes
                writer.write(b"HTTP/1.1 200 OK\r\n%bContent-Length: %d\r\n\r\n" % (close, len(body)) + body)
                if self.closes:
                    break
        except (asyncio.IncompleteReadError, OSError):
            pass
        writer.close()


@asynccontextmanager
async def told() -> AsyncIterator[tuple[Told, str]]:
    gateway = Told()
    server = await asyncio.start_server(gateway.serve, "127.0.0.1", 0)
    try:
        yield gateway, f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()


async def test_e60_closed_egress_is_exit_0_after_as_many_rounds_as_asked_for(capsys: Output) -> None:
    async with told() as (gateway, url):
        assert await egress("--gateway", url, "--hold", "2", "--timeout", "20s") == 0
        said = capsys.readouterr()
        assert ("2 times in a row" in said.out, said.err) == (True, "")
        assert gateway.asked == 4  # before and behind the dials of each round


async def test_e60_a_policy_that_comes_late_is_waited_for() -> None:
    async with told() as (gateway, url):
        with accepting() as (_, canary):
            assert gateway.canary is not None
            gateway.canary["addresses"] = [canary]
            async with RobinProcess("wait", "egress", "--gateway", url, "--hold", "1", "--timeout", "30s") as robin:
                await robin.line("answered directly")
                gateway.canary["addresses"] = [f"127.0.0.1:{free_port()}"]  # as when a policy comes into force
                assert await robin.returned(timeout_s=20) == 0


def prove_once(url: str) -> tuple[int, str]:
    """One round, whose confirmation is not waited for."""
    place = GatewayPlace(host="127.0.0.1", port=int(url.rpartition(":")[2]), ca_file=None)
    reader = GatewayReader(place, SystemClock(), None)
    try:
        return prove(reader, place, (), SystemClock(), hold=1, within_s=0.0, confirm_s=0.0)
    finally:
        reader.close()


async def test_what_proves_nothing_is_no_success(capsys: Output) -> None:
    malformed: list[dict[str, Any]] = [
        {"addresses": ["name:1"], "up": True},
        {"addresses": [], "up": True},
        {"up": True},
        {"addresses": ["127.0.0.1:1"] * 33, "up": True},
        {"addresses": ["127.0.0.1:1"], "up": 1},
        {"addresses": ["127.0.0.1:1"], "up": True, "checked_at": None},
    ]
    async with told() as (gateway, url):
        good = gateway.canary
        for canary, code, word in [
            *((part, 3, "") for part in malformed),
            (None, 5, "no canary"),
            ({"addresses": [], "up": False}, 5, "down"),
        ]:
            gateway.canary = canary
            assert await egress("--gateway", url, "--timeout", "0") == code, canary
            assert word in capsys.readouterr().err
        gateway.canary = good
        with accepting() as (_, place):
            assert await egress("--gateway", url, "--forbid", place, "--timeout", "0") == 4
            assert f"{place} answered directly" in capsys.readouterr().err
        gateway.advance = False
        code, said = await asyncio.to_thread(prove_once, url)
        assert (code, "did not look at its canary again" in said) == (5, True)
        gateway.advance, gateway.closes = True, True
        assert await egress("--gateway", url, "--timeout", "0") == 5
        assert "connection to the gateway ended" in capsys.readouterr().err
    assert await egress("--gateway", url, "--timeout", "0") == 3
    assert "Connection refused" in capsys.readouterr().err


def test_what_is_given_wrong_is_exit_2(capsys: Output) -> None:
    for words in (["--gateway", "g:1"], ["--gateway", "http://g:1", "--ca-file", "x"], [], ["--gateway", "g:1", "--ca-file", "/nowhere"]):
        assert main(["wait", "egress", *words]) == 2, words
        assert capsys.readouterr().err.startswith("robin: ")
    for words in (["--gateway", "g"], ["--forbid", "name:1"], ["--hold", "0"], ["--timeout", "60"]):
        with pytest.raises(SystemExit) as ended:
            main(["wait", "egress", *words])
        assert ended.value.code == 2


async def test_the_canary_accepts_and_closes_and_ends_with_0(run_robin: RunRobin) -> None:
    robin = await RobinProcess("canary", "--listen", "localhost:0").start()
    try:
        await robin.line("127.0.0.1:")
        place = robin.stdout[0].rpartition(" ")[2]
        for _ in range(3):
            reader, writer = await asyncio.open_connection("127.0.0.1", int(place.rpartition(":")[2]))
            assert await reader.read() == b""
            writer.close()
        taken = await run_robin("canary", "--listen", place)
        assert (taken.code, "in use" in taken.err) == (3, True)
    finally:
        assert await robin.stop() == 0

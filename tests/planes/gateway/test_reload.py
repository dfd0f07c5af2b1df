"""Reloads by generation: whole or not at all, from a signal or a changed file; what is open meets the new policy."""

import asyncio
import contextlib
import json
import os
import signal
import socket as socket_module
import time
from functools import partial
from pathlib import Path
from typing import Any

from tests.planes.gateway.echoing import GOING_AWAY, asking, echoing, ended, switched
from tests.planes.gateway.rig import Client, Rig, client_hello, code_of, running

from robin.testing.authority import IdentityAuthority
from robin.testing.waiting import eventually

PLAIN = {"name": "plain", "hosts": ["b.test"], "schemes": ["http"], "ports": ["PLAIN"]}
BRIDGED = {"name": "bridged", "hosts": ["a.test"], "ports": ["TLS"], "tls": "bridge"}


async def status(rig: Rig) -> dict[str, Any]:
    code, body = await rig.page("/status/gateway")
    assert code == 200
    found: dict[str, Any] = json.loads(body)
    return found


def write(
    rig: Rig, *, signalled: bool = False, base: str | None = None, text: str | None = None, mode: int = 0o644, **changes: object
) -> None:
    """Replace robin.yaml at once, as an editor and a ConfigMap do, by `text`, or by what stands there, or in `base`, with changes."""
    file = rig.folder / "robin.yaml"
    document = json.loads(base or file.read_text())
    for key, value in changes.items():
        document["gateway"][key] = {**document["gateway"].get(key, {}), **value} if isinstance(value, dict) else value
    fresh = file.with_name("fresh")
    fresh.write_text(json.dumps(document) if text is None else text)
    fresh.chmod(mode)
    os.replace(fresh, file)
    if signalled:
        rig.robin.send_signal(signal.SIGHUP)


async def ask(client: Client, rig: Rig, path: str = "/") -> tuple[int, dict[str, list[str]], bytes]:
    own = f"b.test:{rig.plain.port}"
    return await client.ask(f"GET http://{own}{path} HTTP/1.1", f"Host: {own}")


async def test_a_key_that_cannot_reload_and_a_broken_file_refuse_the_whole_reload(tmp_path: Path) -> None:  # E53
    log = tmp_path / "audit.jsonl"
    async with running(tmp_path, [PLAIN], bridge=False, section={"audit": {"file": str(log)}}) as rig:
        client, good = await rig.client(), (rig.folder / "robin.yaml").read_text()
        first = await status(rig)
        assert (first["generation"], first["last_error"], first["refused_keys"]) == (1, None, [])
        listeners = [{"name": "other", "listen": "127.0.0.1:0"}]

        def is_refused(after: int, named: list[str], keys: list[str]) -> bool:
            """For these keys, and with these words; twice where the watch of the file saw the change before the signal came."""
            found = [one for one in rig.robin.events[after:] if one["event"] == "config_refused" and one["keys"] == keys]
            return any(all(word in one["detail"] for word in named) for one in found)

        cases: list[tuple[list[str], dict[str, Any]]] = [
            (["gateway.listeners"], {"listeners": listeners, "policy": {"rules": []}}),
            (
                ["gateway.name", "gateway.admin", "gateway.audit"],
                {"name": "x", "admin": {"listen": "off"}, "audit": {"on_failure": "allow"}},
            ),
            ([":3:1: error: yaml_invalid: ", " Fix: "], {"text": "version: 1\ngateway: [\n"}),
            ([":2:9: error: value_invalid: gateway is null", " Fix: write"], {"text": "version: 1\ngateway: \n"}),
            ([":2:9: error: value_invalid: gateway is null", " Fix: write"], {"text": "version: 1\ngateway: \n"}),  # again
            ([":2:21: error: value_invalid: gateway.profiles is "], {"text": "version: 1\ngateway: {profiles: 3}"}),
            ([":1:1: error: key_missing: there is no section"], {"text": "version: 1\n"}),
            (
                [":2:11: error: unknown_key: ", ":2:18: error: unknown_key: "],
                {"text": "version: 1\ngateway: {no: 1, such: 1, policy: {rules: [{name: r, hosts: [evil.test]}]}}"},
            ),
            ([], {"mode": 0o666}),
            ([], {"upstream_tls": {"ca_files": [str(tmp_path / "absent.pem")]}}),
        ]
        for named, changes in cases:
            told = len(rig.robin.events)
            write(rig, signalled=True, base=good, **changes)
            keys = [one for one in named if ":" not in one]
            await eventually(partial(is_refused, told, named, keys), what=f"the refusal of {named}")
            now = await status(rig)
            assert (now["generation"], now["config_sha256"], now["refused_keys"]) == (1, first["config_sha256"], keys)
            assert now["last_error"]
            assert (await ask(client, rig))[0] == 200
        reloads = await rig.metrics("robin_config_reload_total")
        assert (reloads['result="ok"'], reloads['result="refused"'] >= len(cases)) == (0, True)
        log.rename(log.with_suffix(".old"))
        write(rig, signalled=True, base=good, policy={"rules": []})
        await rig.robin.event("config_loaded")
        await rig.robin.event("audit_reopened")
        assert code_of(await ask(client, rig)) == (403, "rule_default")
        now = await status(rig)
        assert (now["generation"] in {2, 3}, now["last_error"], now["refused_keys"]) == (True, None, [])


CLOSED = {"name": "closed", "hosts": ["b.test"], "ports": ["TLS"]}


async def test_after_a_swap_of_a_configmap_requests_and_tunnels_meet_the_new_policy(tmp_path: Path) -> None:  # E54
    keep = {"name": "keep", "hosts": ["a.test"], "schemes": ["tcp"], "ports": ["ECHO"]}
    ws = {"name": "ws", "hosts": ["b.test"], "schemes": ["http"], "ports": ["ECHO"], "upgrade": ["websocket"]}
    slow = {"name": "slow", "hosts": ["a.test"], "ports": ["GATED"], "tls": "bridge"}
    async with echoing(tmp_path, [keep, ws, slow, BRIDGED, CLOSED, PLAIN], timeouts={"tls": "1h"}) as (rig, own, late):
        port = own.rpartition(":")[2]
        kept, closed, bridge, busy = [await rig.client() for _ in range(4)]
        assert (await kept.connect(f"a.test:{port}"))[0] == 200
        assert (await closed.connect(f"b.test:{rig.tls.port}"))[0] == 200
        await closed.start_tls("b.test", rig.pki.ca_file)
        assert (await closed.ask("GET / HTTP/1.1", f"Host: b.test:{rig.tls.port}"))[0] == 200
        inner = ("GET /in HTTP/1.1", f"Host: a.test:{rig.tls.port}")
        for client in (bridge, busy):
            assert (await client.connect(f"a.test:{rig.tls.port}"))[0] == 200
            await client.start_tls("a.test", rig.ca_file)
            assert (await client.ask(*inner))[0] == 200
        pending, opening = await rig.client(), await rig.client()
        assert (await opening.connect(f"a.test:{rig.tls.port}"))[0] == 200
        opening.writer.write(client_hello("a.test"))
        await opening.reader.readexactly(5)  # its handshake has begun, and does not go on
        document = json.loads((rig.folder / "robin.yaml").read_text())
        (gated,) = next(rule["ports"] for rule in document["gateway"]["policy"]["rules"] if rule["name"] == "slow")
        pending.writer.write(f"CONNECT a.test:{gated} HTTP/1.1\r\nHost: a.test:{gated}\r\n\r\n".encode())
        await eventually(lambda: ("127.0.0.1", gated) in rig.dials, what="the dial that waits")
        rig.tls.gate = asyncio.Event()
        busy.writer.write("\r\n".join([*inner, "", ""]).encode())  # is under way during the reload
        await eventually(lambda: len(rig.tls.requests) == 4, what="the request that waits")
        socket, upgrading = await switched(rig, own), await asking(rig, own, "/late")
        await rig.record("gateway.decision", path="/late")

        for version, rules in (("1", None), ("2", ["keep"])):  # as the kubelet does it
            (rig.folder / f"..{version}").mkdir()
            if rules is not None:
                document["gateway"]["policy"]["rules"] = [one for one in document["gateway"]["policy"]["rules"] if one["name"] in rules]
            (rig.folder / f"..{version}" / "robin.yaml").write_text(json.dumps(document))
            (rig.folder / "new").symlink_to(f"..{version}")
            os.replace(rig.folder / "new", rig.folder / "..data")
            if version == "1":
                (rig.folder / "new").symlink_to("..data/robin.yaml")
                os.replace(rig.folder / "new", rig.folder / "robin.yaml")
        loop, swapped = asyncio.get_running_loop(), asyncio.get_running_loop().time()
        await rig.robin.event("config_loaded")  # with no signal
        loaded = loop.time()
        assert loaded - swapped < 15
        assert code_of(await bridge.ask(*inner)) == (403, "rule_default")
        assert await ended(socket) == GOING_AWAY
        assert await ended(closed) == b""
        assert await ended(busy) == b""  # cut in its exchange
        assert await ended(bridge) == b""
        await ended(opening)
        assert loop.time() - loaded < 5
        late.set()  # its destination can be reached by now
        assert code_of(await pending.response()) == (403, "rule_default")
        assert (await upgrading.response())[0] == 101  # it was permitted, and opens under a policy that does not
        assert await ended(upgrading) == GOING_AWAY
        kept.writer.write(b"still")
        assert await kept.reader.readexactly(5) == b"still"

        def swaps() -> int:
            return len({one["id"] for one in rig.records if one["event"] == "gateway.close" and one["reason"] == "policy_reload"})

        # three CONNECTs that were open, one in its handshake, one that was not yet, two WebSockets, the exchange that was cut
        await eventually(lambda: swaps() == 8, what="eight records of what the reload ended")
        again = await rig.client()
        assert code_of(await again.connect(f"b.test:{rig.tls.port}")) == (403, "rule_default")


async def test_what_waits_over_several_reloads_is_recorded_as_it_was_decided(tmp_path: Path) -> None:
    async with echoing(tmp_path, [{**PLAIN, "ports": ["GATED", "PLAIN"]}], policy={"mode": "report"}) as (rig, _, late):
        document = json.loads((rig.folder / "robin.yaml").read_text())
        own = f"a.test:{document['gateway']['policy']['rules'][0]['ports'][0]}"
        client = await rig.client()
        client.writer.write(f"GET https://{own}/waits HTTP/1.1\r\nHost: {own}\r\n\r\n".encode())
        await eventually(lambda: len(rig.dials) == 1, what="the dial that waits")
        for at in range(3):
            write(rig, signalled=True, drain={"min": "0s", "max": f"{6 + at}s"})
            await rig.robin.event("config_loaded", after=at)
        late.set()
        record = await rig.record("gateway.decision", path="/waits")
        assert (record["generation"], record["verdict"], record["would_deny"]) == (1, "permit", "rule_default")


HELD = """\
id: held
display_name: Held
credentials: [{name: key, auth_style: header, header_name: X-Key}]
endpoints: [{host: a.test, port: %d}]
"""


async def test_a_request_whose_body_arrives_over_a_reload_meets_the_new_policy(tmp_path: Path) -> None:
    """Its body is held, so that nothing was sent yet: a caller that keeps the last octet back would keep its leave and its credential."""
    (tmp_path / "key").write_text("secret-key-of-the-origin")
    provider = {"profile": "held", "callers": ["local"], "files": {"key": str(tmp_path / "key")}}
    section = {"profiles": ["held.yaml"], "providers": [provider]}
    deny = {"name": "deny", "effect": "deny", "hosts": ["a.test"], "ports": []}

    def prepare(port: int) -> None:
        deny["ports"] = [port]
        (tmp_path / "held.yaml").write_text(HELD % port)

    async with running(tmp_path, [], section=section, prepare=prepare) as rig:
        own = f"a.test:{rig.tls.port}"
        head = (f"POST https://{own}/ HTTP/1.1", f"Host: {own}", "Content-Length: 2", "Expect: 100-continue")
        client, still = await rig.client(), await rig.client()
        for one in (client, still):
            assert (await one.ask(*head))[0] == 100  # by the gateway: it holds the body
            one.writer.write(b"1")
        write(rig, signalled=True, drain={"min": "0s", "max": "6s"})
        await rig.robin.event("config_loaded")
        still.writer.write(b"2")
        assert b"secret-key-of-the-origin" in (await still.response())[2]  # the same policy once more
        write(rig, signalled=True, policy={"rules": [deny]})
        await rig.robin.event("config_loaded", after=1)
        client.writer.write(b"2")
        assert code_of(await client.response()) == (403, "rule_denied")
        assert len(rig.tls.requests) == 1
        record = await rig.record("gateway.decision", code="rule_denied")
        assert (record["verdict"], record["generation"], record["rule"]) == ("deny", 3, "deny")


async def test_an_origin_that_is_denied_meanwhile_does_not_get_the_credential_after_which_its_401_asks(tmp_path: Path) -> None:
    """A hostile origin lets a request wait for ten minutes: its 401 must not fetch it what the next request would not get."""
    (tmp_path / "key").write_text("secret-key-of-before")
    provider = {"profile": "held", "callers": ["local"], "files": {"key": str(tmp_path / "key")}}
    section = {"profiles": ["held.yaml"], "providers": [provider]}
    deny: dict[str, Any] = {"name": "deny", "effect": "deny", "hosts": ["a.test"]}

    def prepare(port: int) -> None:
        deny["ports"] = [port]
        (tmp_path / "held.yaml").write_text(HELD % port)

    async with running(tmp_path, [], section=section, prepare=prepare) as rig:
        own, gate = f"a.test:{rig.tls.port}", asyncio.Event()
        rig.tls.gate, rig.tls.answer = gate, b"HTTP/1.1 401 Unauthorized\r\n"
        client = await rig.client()
        client.writer.write(f"GET https://{own}/ HTTP/1.1\r\nHost: {own}\r\n\r\n".encode())
        await eventually(lambda: len(rig.tls.requests) == 1, what="the request at the origin")
        (tmp_path / "key").write_text("secret-key-of-now")
        write(rig, signalled=True, policy={"rules": [deny]})
        await rig.robin.event("config_loaded")
        gate.set()
        assert code_of(await client.response()) == (403, "rule_denied")
        assert len(rig.tls.requests) == 1
        assert (await rig.record("gateway.close"))["fault"] == "rule_denied"
        assert [one["event"] for one in rig.records] == ["gateway.decision", "gateway.close"]


async def test_a_body_that_is_held_arrives_while_the_token_of_its_caller_is_valid_or_is_not_sent(tmp_path: Path) -> None:
    authority = IdentityAuthority()
    (tmp_path / "jwks.json").write_text(json.dumps(authority.jwks()))
    (tmp_path / "key").write_text("secret-key-of-the-origin")
    trust = {"issuer": authority.issuer, "audiences": ["robin-gateway"], "algorithms": ["ES256"]}
    section = {
        "issuers": [{"name": "ci", "kind": "oidc", **trust, "jwks": {"file": str(tmp_path / "jwks.json")}}],
        "profiles": ["held.yaml"],
        "providers": [{"profile": "held", "callers": ["*"], "files": {"key": str(tmp_path / "key")}}],
    }

    def prepare(port: int) -> None:
        (tmp_path / "held.yaml").write_text(HELD % port)

    async with running(tmp_path, [], section=section, prepare=prepare, listener={"auth": "jwt", "issuers": ["ci"]}) as rig:
        ends_at, own = int(time.time()) - 26, f"a.test:{rig.tls.port}"  # 30 s is the leeway
        claims = {"iss": authority.issuer, "aud": "robin-gateway", "sub": "agent", "iat": ends_at - 100, "exp": ends_at}
        bearer = f"Proxy-Authorization: Bearer {authority.sign(claims).decode()}"
        client, body = await rig.client(), ("Content-Length: 1", "Expect: 100-continue")
        assert (await client.ask(f"POST https://{own}/ HTTP/1.1", f"Host: {own}", bearer, *body))[0] == 100
        assert code_of(await client.response()) == (408, "request_timeout")
        assert rig.tls.requests == []


async def test_a_drain_lets_websockets_and_half_closed_tunnels_run_until_five_seconds_before_its_end(
    tmp_path: Path,
) -> None:
    keep = {"name": "keep", "hosts": ["a.test"], "schemes": ["tcp"], "ports": ["ECHO"]}  # E55
    ws = {"name": "ws", "hosts": ["b.test"], "schemes": ["http"], "ports": ["ECHO"], "upgrade": ["websocket"]}
    async with echoing(tmp_path, [keep, ws], drain={"min": "0s", "max": "7s"}) as (rig, own, late):
        half, socket = await rig.client(), await switched(rig, own)
        assert (await half.connect(f"a.test:{own.rpartition(':')[2]}"))[0] == 200
        half.writer.write(b"half")
        half.writer.write_eof()
        rig.robin.send_signal(signal.SIGTERM)
        await rig.robin.event("draining")
        await eventually(lambda: refused_connection(rig.address), what="closed listeners")
        hello = b"\x81\x85abcd" + bytes(octet ^ b"abcd"[at % 4] for at, octet in enumerate(b"hello"))
        socket.writer.write(hello)
        assert await socket.reader.readexactly(len(hello)) == hello  # it runs on
        late.set()
        assert await half.rest() == b"late"
        assert await socket.reader.readexactly(4) == GOING_AWAY
        socket.writer.write(b"\x88\x82abcd" + bytes(octet ^ b"abcd"[at] for at, octet in enumerate(GOING_AWAY[2:])))
        socket.writer.write_eof()
        assert await rig.robin.returned() == 0
        assert sorted(one["reason"] for one in rig.records if one["event"] == "gateway.close") == ["client_closed", "drain"]


def refused_connection(address: str) -> bool:
    host, _, port = address.rpartition(":")
    with contextlib.closing(socket_module.socket()) as sock:
        return sock.connect_ex((host, int(port))) != 0


async def test_addresses_roots_limits_issuers_and_mode_reload_too(tmp_path: Path) -> None:
    authority = IdentityAuthority()
    (tmp_path / "jwks.json").write_text(json.dumps(authority.jwks()))
    issuer = {"name": "corp", "kind": "oidc", "issuer": authority.issuer, "audiences": ["robin-gateway"], "algorithms": ["ES256"]}
    issuer["jwks"] = {"file": str(tmp_path / "jwks.json")}
    now = int(time.time())
    token = authority.sign({"iss": authority.issuer, "sub": "u", "aud": "robin-gateway", "exp": now + 3000, "iat": now}).decode()
    bearer = f"Proxy-Authorization: Bearer {token}"
    tcp = {"name": "tcp", "hosts": ["b.test"], "schemes": ["tcp"], "ports": ["TLS"]}
    listener = {"auth": "jwt", "issuers": ["corp"]}
    async with running(tmp_path, [PLAIN, BRIDGED, tcp], listener=listener, section={"issuers": [issuer]}) as rig:
        client, own, secure = await rig.client(), f"b.test:{rig.plain.port}", f"a.test:{rig.tls.port}"
        loaded = 0

        async def reload(**changes: object) -> None:
            nonlocal loaded
            write(rig, signalled=True, **changes)  # type: ignore[arg-type]
            await rig.robin.event("config_loaded", after=loaded)
            loaded += 1

        async def get() -> tuple[int, str]:
            answer = await client.ask(f"GET http://{own}/ HTTP/1.1", f"Host: {own}", bearer)
            return (200, "") if answer[0] == 200 else code_of(answer)

        async def connect(authority: str = secure) -> tuple[Client, tuple[int, str]]:
            fresh = await rig.client()
            answer = await fresh.connect(authority, bearer)
            return fresh, (200, "") if answer[0] == 200 else code_of(answer)

        assert await get() == (200, "")
        loopback = [f"127.0.0.1:{port}" for port in (rig.plain.port, rig.tls.port)]
        tunnel, got = await connect(f"b.test:{rig.tls.port}")
        assert got == (200, "")
        await reload(addresses={"unsafe_loopback": loopback[:1]})
        assert await ended(tunnel) == b""  # its address is refused now
        assert (await connect(f"b.test:{rig.tls.port}"))[1] == (403, "address_refused")
        assert await get() == (200, "")
        await reload(addresses={"unsafe_loopback": loopback}, limits={"tunnels_per_caller": 1}, upstream_tls={"ca_files": []})
        assert (await connect())[1] == (502, "upstream_certificate")
        held, got = await connect(f"b.test:{rig.tls.port}")
        assert (got, (await connect())[1]) == ((200, ""), (429, "limit_tunnels"))
        await reload(issuers=[{**issuer, "audiences": ["other"]}])
        assert await ended(held) == b""  # what it was permitted by is not accepted any more
        assert await get() == (407, "caller_token_invalid")
        await reload(issuers=[issuer], policy={"mode": "report", "rules": []})
        assert await get() == (200, "")
        assert ((await status(rig))["mode"], await rig.metrics("robin_gateway_mode")) == (
            "report",
            {'mode="enforce"': 0, 'mode="report"': 1},
        )
        await reload(drain={"min": "0s", "max": "30s"})
        decisions = [one for one in rig.records if one["event"] == "gateway.decision" and one["verdict"] == "permit"]
        assert [one["generation"] for one in decisions] == sorted(one["generation"] for one in decisions)
        assert decisions[-1]["generation"] == 5

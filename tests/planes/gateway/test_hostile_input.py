"""Hostile input to a real gateway process: spellings, paths, addresses, ClientHellos, framing. Nothing is dialled, sent or believed.

The holes that are known from other gateways have a file of their own, test_attacks.py. Connects are counted as there.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence

import pytest
import pytest_asyncio
from tests.planes.gateway.attacked import BRIDGED, NAMES, NEVER, attacked, named, refused
from tests.planes.gateway.rig import Client, Rig, client_hello, code_of

from robin.testing.waiting import eventually

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def rig(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Rig]:
    async with attacked(tmp_path_factory.mktemp("hostile")) as rig:
        yield rig


# E14 Spellings of addresses that some program reads as another


@pytest.mark.parametrize(
    "host",
    [
        *"2130706433 0x7f.1 0x7f000001 127.1 127.0.0.1. 0177.0.0.1 017700000001 1.2.3.4.5 [fe80::1%25eth0] [fe80::1%eth0] [::1 ::1".split(),
        *"[::1]x [127.0.0.1] [v1.x] a..b .a a_-.b- u@b.test u:p@b.test b.test%00 %62.test b%2etest bücher.test １２７.0.0.1".split(),
        "",
        "a" * 254,
    ],
)
async def test_a_host_that_others_may_read_as_another_is_malformed(rig: Rig, host: str) -> None:
    for lines in (
        (f"CONNECT {host}:443 HTTP/1.1", f"Host: {host}:443"),
        (f"GET http://{host}/ HTTP/1.1", f"Host: {host}"),
        (f"GET http://b.test:{rig.plain.port}/ HTTP/1.1", f"Host: {host}"),
    ):
        status, code = await refused(rig, await rig.client(), *(line.encode().decode("latin-1") for line in lines))
        no_authority = not host.isascii() or not host or set(host) & set("[]@%:")  # by the grammar of RFC 3986, before any rule of ours
        assert (status, code) in {(400, "authority_invalid"), *([(400, "bad_request")] if no_authority else [])}


@pytest.mark.parametrize("port", ["0", "65536", "99999999999999999999", "+443", "-1", "443 ", "0x1bb", ""])
async def test_a_port_that_is_none_is_malformed(rig: Rig, port: str) -> None:
    status, _ = await refused(rig, await rig.client(), f"CONNECT b.test:{port} HTTP/1.1", f"Host: b.test:{port}")
    assert status == 400


# E15 Paths that servers read in more than one way


@pytest.mark.parametrize(
    "path",
    [*"/a/../b /a/%2e%2e/b /a/.%2E/b /a/%2e /a%2fb /a%5cb /a\\b //a /a//b /a;x /a%3bx/../b /a%00 /a%0d%0a /%zz /%4 /a%".split(), "/ä"],
)
async def test_a_path_that_servers_read_differently_is_refused_where_a_rule_has_paths(rig: Rig, path: str) -> None:
    origin = f"a.test:{rig.plain.port}"
    status, code = await refused(
        rig, await rig.client(), f"GET http://{origin}{path} HTTP/1.1".encode().decode("latin-1"), f"Host: {origin}"
    )
    assert (status, code) in {(400, "path_not_canonical"), (400, "bad_request"), (403, "rule_default")}
    assert code != "rule_default" or path == "/a%3bx/../b"


# Fields that name another method or path


async def test_a_field_that_names_another_method_or_path_is_not_forwarded_where_rules_look_at_them(rig: Rig) -> None:
    fields = ("X-HTTP-Method-Override: DELETE", "X_Http_Method: DELETE", "X-Original-URL: /secret", "X-Rewrite-URL: /secret")
    looked_at = await rig.get(f"http://a.test:{rig.plain.port}/a/x", *fields)
    assert (looked_at[0], b"DELETE" in looked_at[2], b"secret" in looked_at[2]) == (200, False, False)
    open_to_all = await rig.get(f"http://b.test:{rig.plain.port}/a/x", *fields)
    assert (open_to_all[0], open_to_all[2].count(b"DELETE"), open_to_all[2].count(b"secret")) == (200, 2, 2)


# E19, E23 The address guard, by every way to an address


@pytest.mark.parametrize("address", NEVER)
async def test_an_address_that_is_never_reachable_is_not_dialled_by_any_way(rig: Rig, address: str) -> None:
    for host in (named(address), NAMES[address]):
        for line in (f"CONNECT {host}:443", f"GET http://{host}/", f"GET https://{host}/"):
            authority = f"{host}:443" if line.startswith("CONNECT") else host
            assert await refused(rig, await rig.client(), f"{line} HTTP/1.1", f"Host: {authority}") == (403, "address_refused")
    host = BRIDGED[address]
    answer = await refused(rig, await rig.client(), f"CONNECT {host}:443 HTTP/1.1", f"Host: {host}:443")
    assert answer == (403, "address_refused")
    record = await rig.record("gateway.decision", host=host)
    assert record["verdict"] == "deny"
    assert record["why"] in {NEVER[address], "self"}  # this machine has some of them


# E24 Search lists


async def test_the_search_list_and_the_hosts_file_are_not_asked(rig: Rig) -> None:  # E24
    refused = await rig.get("http://gone.names.test/")
    assert code_of(refused) == (502, "dns_failed")
    assert "`addresses.hosts`" in json.loads(refused[2])["detail"]
    assert {asked for asked, _ in rig.names.asked if asked.startswith("gone")} == {"gone.names.test."}


# E27 ClientHellos of hostile form


async def test_a_client_hello_in_single_octets_is_read_like_a_whole_one(rig: Rig) -> None:
    client = await rig.client()
    await client.connect(f"b.test:{rig.tls.port}")
    for octet in client_hello("b.test"):
        client.writer.write(bytes((octet,)))
        await client.writer.drain()
    async with asyncio.timeout(20):
        assert (await client.reader.readexactly(1))[0] == 22  # the origin's ServerHello


@pytest.mark.parametrize("spread", [1, 3, 100])
async def test_a_client_hello_over_many_records_is_read_like_a_whole_one(rig: Rig, spread: int) -> None:
    hello = client_hello("a.test" if spread == 3 else "b.test", padding=1400)  # as long as one with a hybrid key share
    body, at = hello[5:], max(1, (len(hello) - 5) // spread)
    records = b"".join(
        b"\x16\x03\x01" + len(piece).to_bytes(2, "big") + piece for piece in (body[i : i + at] for i in range(0, len(body), at))
    )
    client = await rig.client()
    await client.connect(f"{'a' if spread == 3 else 'b'}.test:{rig.tls.port}")
    client.writer.write(records)
    async with asyncio.timeout(20):
        assert (await client.reader.readexactly(1))[0] == 22
    for wrong in (b"\x16\x03\x01\x00\x00", b"\x17\x03\x03\x00\x01x"):  # an empty record, another record within it
        client = await rig.client()
        await client.connect(f"b.test:{rig.tls.port}")
        client.writer.write(records[: 5 + at] + wrong if spread > 1 else wrong)
        assert (await client.rest())[:1] in {b"\x15", b""}


@pytest.mark.parametrize("host", ["a.test", "b.test"])
async def test_a_client_hello_of_16_kib_is_read_and_one_octet_more_ends_the_connection(rig: Rig, host: str) -> None:
    before = rig.tls.octets
    for length, expected in ((16384, b"\x16"), (16385, b"\x15")):
        client = await rig.client()
        await client.connect(f"{host}:{rig.tls.port}")
        client.writer.write(client_hello(host, length=length))
        async with asyncio.timeout(20):
            assert await client.reader.readexactly(1) == expected
    client = await rig.client()
    await client.connect(f"{host}:{rig.tls.port}")
    client.writer.write(b"\x16\x03\x01\x40\x00\x01\x00\xff\xff" + bytes(16400))  # says that it is long
    assert (await client.rest())[:1] == b"\x15"
    assert rig.tls.octets == before

    def invalid() -> int:
        connects = {one["id"] for one in rig.records if one.get("op") == "connect" and one["host"] == host}
        return len([one for one in rig.records if one["id"] in connects and one.get("fault") == "client_hello_invalid"])

    await eventually(lambda: invalid() >= 2, what="both of them in the records")


# E32 The cost of a host


@pytest.mark.parametrize("count", [20, pytest.param(1000, marks=pytest.mark.slow)])
async def test_a_host_costs_one_signature_however_often_it_is_bridged(rig: Rig, count: int) -> None:  # E32
    async def bridged() -> None:
        client = await rig.client()
        await client.connect(f"a.test:{rig.tls.port}")
        await client.start_tls("a.test", rig.ca_file)
        client.writer.transport.abort()

    await bridged()
    (minted,) = (await rig.metrics("robin_gateway_leaf_mints_total")).values()
    for _ in range(count):
        await bridged()
    assert list((await rig.metrics("robin_gateway_leaf_mints_total")).values()) == [minted]
    assert next(iter((await rig.metrics("robin_gateway_leaf_cache_hits_total")).values())) >= count


# E36 What is not what the rule says


async def test_a_client_that_stalls_in_its_handshake_or_its_head_is_cut(rig: Rig) -> None:
    client = await rig.client()
    await client.connect(f"a.test:{rig.tls.port}")
    client.writer.write(client_hello("a.test"))  # and never a Finished
    await client.rest()
    await rig.record("gateway.close", fault="tls_client_rejected")
    client = await rig.client()
    client.writer.write(b"CONNECT a.test:443 HTTP/1.1\r\nHost: ")
    assert code_of(await client.response()) == (408, "request_timeout")


async def test_plaintext_behind_a_connect_is_served_only_where_http_is_allowed(rig: Rig) -> None:
    client = await rig.client()
    await client.connect(f"b.test:{rig.tls.port}")
    client.writer.write(b"GET / HTTP/1.1\r\nHost: b.test\r\n\r\n")
    assert await client.rest() == b""
    await rig.record("gateway.close", fault="not_tls")
    client = await rig.client()
    own = f"a.test:{rig.plain.port}"
    assert (await client.connect(own))[0] == 200
    assert (await client.ask("GET /a/1 HTTP/1.1", f"Host: {own}"))[0] == 200
    assert code_of(await client.ask("GET /b HTTP/1.1", f"Host: {own}")) == (403, "rule_default")
    client = await rig.client()
    await client.connect(own)
    client.writer.write(client_hello("a.test"))  # TLS where only http is allowed
    assert await client.rest() == b""
    await rig.record("gateway.close", fault="not_http")


# Request smuggling


async def test_bytes_behind_a_connect_that_is_refused_are_never_a_request(rig: Rig) -> None:
    """A client may send the bytes of its tunnel before it has seen the refusal, and another program may choose those bytes."""
    inner = f"GET http://b.test:{rig.plain.port}/smuggled HTTP/1.1\r\nHost: b.test:{rig.plain.port}\r\n\r\n"
    client = await rig.client()
    client.writer.write(f"CONNECT evil.test:443 HTTP/1.1\r\nHost: evil.test:443\r\n\r\n{inner}".encode())
    status, fields, _ = await client.response()
    assert (status, fields["connection"]) == (403, ["close"])
    client.writer.write(inner.encode())
    assert await client.rest() == b""
    assert not [head for head in rig.plain.requests if b"/smuggled" in head]


@pytest.mark.parametrize("fields", [
    ("Content-Length: 5", "Transfer-Encoding: chunked"),
    ("Content-Length: 5", "Content-Length: 6"),
    ("Transfer-Encoding: chunked, identity",),
    ("Transfer-Encoding : chunked",),
    ("Content-Length: +5",),
    ("X: y\r\n folded",),
    ("Host: b.test",),
])  # fmt: skip
async def test_a_message_of_doubtful_length_is_refused_in_every_form(rig: Rig, fields: Sequence[str]) -> None:
    own, bridged = f"b.test:{rig.plain.port}", f"a.test:{rig.tls.port}"
    assert (await refused(rig, await rig.client(), f"POST http://{own}/ HTTP/1.1", f"Host: {own}", *fields))[0] == 400
    assert (await refused(rig, await rig.client(), f"CONNECT {own} HTTP/1.1", f"Host: {own}", *fields))[0] == 400
    client = await rig.client()
    await client.connect(bridged)
    await client.start_tls("a.test", rig.ca_file)
    seen = len(rig.tls.requests)
    assert code_of(await client.ask("POST /ok/x HTTP/1.1", f"Host: {bridged}", *fields))[0] == 400
    assert len(rig.tls.requests) == seen


async def test_a_connect_has_no_body(rig: Rig) -> None:
    own = f"b.test:{rig.tls.port}"
    for field in ("Content-Length: 5", "Transfer-Encoding: chunked"):
        assert (await refused(rig, await rig.client(), f"CONNECT {own} HTTP/1.1", f"Host: {own}", field))[0] == 400


# E7 Who the caller is, E52 what is recorded


async def test_no_field_of_a_request_selects_the_caller(rig: Rig) -> None:
    forged = ["X-Forwarded-For: 9.9.9.9", "Forwarded: for=root", "User-Agent: root", "X-Caller: root", "From: root", "Via: 1.1 root"]
    url = f"http://b.test:{rig.plain.port}/who"
    assert (await rig.get(url, *forged, "Proxy-Authorization: Bearer x", "X-Client-Cert: root"))[0] == 200
    record = await rig.record("gateway.decision", path="/who")
    assert record["caller"] == {"id": "local", "evidence": "loopback", "issuer": "", "pod": "", "addr": "127.0.0.1"}
    host, _, port = rig.address.rpartition(":")
    elsewhere = Client(*await asyncio.open_connection(host, int(port), local_addr=("127.0.0.9", 0)))  # another source address
    rig.clients.append(elsewhere)
    assert (await elsewhere.ask(f"GET {url}/9 HTTP/1.1", f"Host: b.test:{rig.plain.port}"))[0] == 200
    assert (await rig.record("gateway.decision", path="/who/9"))["caller"] == {**record["caller"], "addr": "127.0.0.9"}


async def test_what_a_request_holds_cannot_write_a_line_of_the_log(rig: Rig) -> None:
    for path in ("/%0d%0a{%22event%22:%22forged%22}", '/"},{"event":"forged"}', "/\\u000a{}", "/\x1b[2J", "/ä\u2028"):
        await rig.get(f"http://b.test:{rig.plain.port}{path}".encode().decode("latin-1"), 'X: "}\t{"event":"forged"}')
    assert (await rig.get(f"http://b.test:{rig.plain.port}/last"))[0] == 200
    await rig.record("gateway.decision", path="/last")
    lines = [line for stream, line in rig.robin.lines if stream == "stdout"]
    assert all(line.isascii() and line.isprintable() and json.loads(line)["event"] != "forged" for line in lines)


async def test_a_refusal_has_its_code_in_the_response_and_in_its_one_record(rig: Rig) -> None:  # E52
    status, fields, body = await rig.get("http://evil.test/refused")
    problem = json.loads(body)
    record = await rig.record("gateway.decision", id=problem["request_id"])
    assert (status, record["code"], record["verdict"]) == (403, problem["code"], "deny")
    assert fields["proxy-status"] == ['robin-gateway; error=http_request_denied; details="rule_default"']
    assert (await rig.record("gateway.close", id=problem["request_id"]))["fault"] == problem["code"]

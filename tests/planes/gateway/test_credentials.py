"""Credentials behind the real gateway process: only at the bound, verified origin, only for their callers, never where nothing is seen."""

import asyncio
import json
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from tests.config.test_profile import VECTORS
from tests.grants.proxied import Answering, token_reply
from tests.planes.gateway.rig import Client, Origin, Rig, running
from tests.planes.gateway.test_forward import code_of

from robin.model.secret import Secret
from robin.testing.authority import IdentityAuthority
from robin.testing.certificates import CertificateAuthority
from robin.testing.waiting import eventually
from robin.testing.workload_api import Outcome, WorkloadApi
from robin.wire.workload_api import JwtSvid, JwtSvidRequest

pytestmark = pytest.mark.asyncio(loop_scope="module")

GITHUB = "127.0.0.44"
SUBJECT = "/ns/demo/sa/agent"
PROFILE = """\
id: demo
display_name: Demo
credentials:
  - {name: token, token_grant: {token_endpoint: "http://127.0.0.1:%(issuer)d/token", issuer: "https://issuer.example",
     audience: a, scopes: [x], audience_overrides: [{host: a.test, path: /other/**, audience: a, scopes: [other]}]}}
endpoints:
  - {host: a.test, port: %(tls)d, path: "/api/**", access: read-only}
  - {host: a.test, port: %(tls)d, path: "/other/**"}
"""
FROM_A_FILE = """\
id: two
display_name: Two
credentials: [{name: token, token_grant: {token_endpoint: "http://127.0.0.1:%(issuer)d/two", issuer: "https://two.example"}}]
endpoints: [{host: b.test, port: %(tls)d}]
"""
STATIC = """\
id: static
display_name: Static
credentials: [{name: key, auth_style: header, header_name: X-Key}]
endpoints: [{host: a.test, port: %(tls)d, path: "/static/**"}]
"""
RULES = [
    {"name": "rest", "hosts": ["a.test"], "ports": ["TLS"]},
    {"name": "closed", "hosts": ["127.0.0.1"], "ports": ["TLS"]},
    {"name": "opaque", "hosts": ["b.test"], "ports": ["PLAIN"], "schemes": ["tcp"]},
    {"name": "plain", "hosts": ["a.test"], "ports": ["PLAIN"], "schemes": ["http"]},
    {"name": "watched", "effect": "deny", "mode": "report", "hosts": ["a.test"], "ports": ["TLS"], "paths": ["/api/watched"]},
]


class Stand:
    """The gateway, the issuer of tokens, and the Workload API."""

    def __init__(self, rig: Rig, issuer: Answering, api: WorkloadApi, authority: IdentityAuthority) -> None:
        self.rig, self.issuer, self.api, self.authority = rig, issuer, api, authority

    async def bridged(self) -> Client:
        """A connection to a.test whose TLS is open."""
        client = await self.rig.client()
        assert (await client.connect(f"a.test:{self.rig.tls.port}"))[0] == 200
        await client.start_tls("a.test", self.rig.ca_file)
        return client

    def head(self, path: str, *lines: str, method: str = "GET", host: str = "") -> list[str]:
        return [f"{method} {path} HTTP/1.1", f"Host: {host or f'a.test:{self.rig.tls.port}'}", *lines]


@asynccontextmanager
async def standing(folder: Path) -> AsyncIterator[Stand]:
    authority = IdentityAuthority()

    async def mint(request: JwtSvidRequest) -> Outcome:
        token = authority.jwt_svid(audience=list(request.audiences), path=SUBJECT)
        return (JwtSvid(spiffe_id=f"spiffe://{authority.trust_domain}{SUBJECT}", svid=Secret(token), hint=""),)

    api = WorkloadApi(mint)
    listening = await api.start_unix(str(folder / "api.sock"))
    count = iter(range(1_000_000))
    issuer = Answering(lambda _: token_reply(f"secret-token-{next(count)}"))

    def prepare(tls: int) -> None:
        (folder / "demo.yaml").write_text(PROFILE % {"issuer": issuer.port, "tls": tls})
        (folder / "two.yaml").write_text(FROM_A_FILE % {"issuer": issuer.port, "tls": tls})
        (folder / "static.yaml").write_text(STATIC % {"tls": tls})

    section = {
        "identities": {
            "default": {"source": "jwtsvid", "spiffe_socket": f"unix://{listening.path}"},
            "projected": {"source": "file", "token_file": str(folder / "token"), "audience": "https://two.example"},
        },
        "profiles": ["demo.yaml", "two.yaml", "static.yaml"],
        "providers": [
            {"profile": "demo", "callers": ["local"]},
            {"profile": "two", "callers": ["local"], "identity": "projected"},
            {"profile": "static", "callers": ["local"], "files": {"key": str(folder / "static-key")}},
        ],
    }
    async with issuer, running(folder, RULES, section=section, prepare=prepare) as rig:
        yield Stand(rig, issuer, api, authority)
    await api.close()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stand(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stand]:
    async with standing(tmp_path_factory.mktemp("credentials")) as stand:
        yield stand


async def test_a_client_of_the_bridge_uses_a_credential_that_it_never_sees(stand: Stand) -> None:
    client = await stand.bridged()
    status, fields, body = await client.ask(*stand.head("/api/1", "Authorization: Bearer mine", "X-Api-Key: mine"))
    assert status == 200
    assert b"Authorization: Bearer secret-token-" in body
    assert b"mine" not in body
    assert "secret" not in json.dumps(fields)
    assert stand.rig.tls.connections == 1, "the connection of the CONNECT carries the first request"
    (asked,) = stand.issuer.seen
    assert b"grant_type=client_credentials&client_assertion_type=" in asked.body
    assert asked.body.endswith(b"&audience=a&scope=x")
    assert stand.api.requests[0].audiences == ("https://issuer.example",)


async def test_absolute_https_gets_it_too_and_another_method_or_path_of_the_host_does_not(stand: Stand) -> None:
    port = stand.rig.tls.port
    status, _, body = await stand.rig.get(f"https://a.test:{port}/api/2")
    assert (status, b"Authorization: Bearer secret-token-" in body) == (200, True)
    status, _, body = await stand.rig.get(f"https://a.test:{port}/elsewhere")
    assert (status, b"uthorization" in body) == (200, False)
    client = await stand.bridged()
    assert code_of(await client.ask(*stand.head("/api/1", method="POST"))) == (403, "endpoint_closed")


async def test_a_host_field_that_names_the_bound_host_gets_nothing(stand: Stand) -> None:  # E25
    before, seen = len(stand.issuer.seen), len(stand.rig.tls.requests)
    client = await stand.rig.client()
    await client.connect(f"127.0.0.1:{stand.rig.tls.port}")
    client = await stand.bridged()
    assert code_of(await client.ask(*stand.head("/api/1", host="b.test"))) == (421, "authority_mismatch")
    answer = await stand.rig.get(f"http://a.test:{stand.rig.plain.port}/api/1", f"Host: a.test:{stand.rig.tls.port}")
    assert answer[0] == 400
    assert (len(stand.issuer.seen), len(stand.rig.tls.requests)) == (before, seen)


async def test_scopes_do_not_mix(stand: Stand) -> None:  # E42
    client = await stand.bridged()
    bodies = [(await client.ask(*stand.head(path)))[2] for path in ("/api/1", "/other/1", "/api/1", "/other/1")]
    tokens = [body.partition(b"Authorization: ")[2].split(b"\r\n")[0] for body in bodies]
    assert tokens[0] == tokens[2] != tokens[1] == tokens[3]
    asked = [one.body.rpartition(b"&scope=")[2] for one in stand.issuer.seen if one.target == b"/token"]
    assert sorted(asked) == [b"other", b"x"]


async def test_no_credential_where_it_is_plain_opaque_or_would_be_denied(stand: Stand) -> None:  # E41
    before = len(stand.issuer.seen)
    status, _, body = await stand.rig.get(f"http://a.test:{stand.rig.plain.port}/api/1")
    assert (status, b"uthorization" in body) == (200, False)
    client = await stand.rig.client()
    await client.connect(f"b.test:{stand.rig.plain.port}")
    status, _, body = await client.ask("GET /api/1 HTTP/1.1", "Host: a.test", "Authorization: Bearer own")
    assert (status, b"Bearer own" in body) == (200, True), "an opaque tunnel is not read"
    client = await stand.bridged()
    status, _, body = await client.ask(*stand.head("/api/watched"))
    assert (status, b"uthorization" in body) == (200, False)
    client = await stand.rig.client()
    assert (await client.connect(f"127.0.0.1:{stand.rig.tls.port}"))[0] == 200
    tls = await client.start_tls("127.0.0.1", stand.rig.pki.ca_file)  # the origin's own certificate: passthrough
    assert tls.version() is not None
    status, _, body = await client.ask("GET /api/1 HTTP/1.1", f"Host: a.test:{stand.rig.tls.port}")
    assert (status, b"uthorization" in body) == (200, False)
    assert len(stand.issuer.seen) == before


async def test_an_identity_of_a_file_that_is_not_there_yet_fails_its_own_requests_alone(stand: Stand) -> None:  # E43
    url = f"https://b.test:{stand.rig.tls.port}/"
    assert code_of(await stand.rig.get(url)) == (503, "identity_unavailable")
    assert (await stand.rig.get(f"https://a.test:{stand.rig.tls.port}/api/1"))[0] == 200
    (stand.rig.folder / "token").write_bytes(stand.authority.service_account_token(audience="https://two.example"))

    async def served() -> bytes | None:
        status, _, body = await stand.rig.get(url)
        return body if status == 200 else None

    body = await eventually(served, what="a token of the second issuer")
    assert body is not None
    assert b"Authorization: Bearer secret-token-" in body
    assert stand.issuer.seen[-1].target == b"/two"


async def test_a_key_of_a_file_that_is_not_there_yet_fails_its_own_requests_alone(stand: Stand) -> None:  # E43
    assert (await stand.rig.page("/readyz"))[0] == 200
    client, seen = await stand.bridged(), len(stand.rig.tls.requests)
    assert code_of(await client.ask(*stand.head("/static/1"))) == (503, "static_credential_unavailable")
    record = await stand.rig.record("gateway.decision", path="/static/1")
    assert (record["verdict"], record["code"], record["grant"]["provider"]) == ("failed", "static_credential_unavailable", "static")
    assert len(stand.rig.tls.requests) == seen
    assert (await client.ask(*stand.head("/api/1")))[0] == 200
    file = stand.rig.folder / "static-key"
    file.touch(mode=0o600)
    file.write_text("static-secret")

    async def served() -> bytes | None:
        status, _, body = await client.ask(*stand.head("/static/1"))
        return body if status == 200 else None

    body = await eventually(served, what="the key of the file")
    assert body is not None
    assert b"X-Key: static-secret" in body


async def test_a_redirect_goes_to_the_client_and_a_connect_alone_obtains_nothing(stand: Stand) -> None:  # E41, G51
    stand.rig.tls.answer = b"HTTP/1.1 307 Temporary Redirect\r\nLocation: https://b.test/\r\n"
    try:
        client = await stand.bridged()
        status, fields, _ = await client.ask(*stand.head("/api/1"))
        assert (status, fields["location"]) == (307, ["https://b.test/"])
    finally:
        stand.rig.tls.answer = b"HTTP/1.1 200 OK\r\n"
    before = len(stand.issuer.seen)
    await stand.bridged()
    assert len(stand.issuer.seen) == before


async def test_records_name_the_credential_and_hold_nothing_of_it_or_of_token_files(stand: Stand) -> None:  # E51
    client = await stand.bridged()
    await client.ask(*stand.head("/api/records"))
    decision = await stand.rig.record("gateway.decision", path="/api/records")
    assert decision["grant"]["provider"] == "demo"
    (stand.rig.folder / "token").write_bytes(stand.authority.service_account_token(audience="https://two.example"))
    (stand.rig.folder / "static-key").touch(mode=0o600)
    (stand.rig.folder / "static-key").write_text("two\nlines-of-a-secret")  # E51: a token file that cannot be used

    async def refused_one() -> tuple[int, dict[str, list[str]], bytes] | None:
        answer = await client.ask(*stand.head("/static/1"))
        return None if answer[0] == 200 else answer

    refused = await eventually(refused_one, what="the refusal of the file")
    assert refused is not None
    assert code_of(refused) == (503, "static_credential_unavailable")
    shown = [line for _, line in stand.rig.robin.lines] + [str(refused)]
    shown += [(await stand.rig.page(path))[1].decode() for path in ("/metrics", "/status/gateway", "/readyz")]
    projected = (stand.rig.folder / "token").read_text().split(".")
    for secret in ("secret-token", "static-secret", "lines-of-a-secret", *projected):
        assert not [text for text in shown if secret in text]


@pytest.mark.skipif(not VECTORS.is_dir(), reason="the published profiles are not on this machine (INTEROP_VECTORS names their folder)")
async def test_g2_the_published_github_profile_serves_reading_alone(tmp_path: Path) -> None:
    """The profile has port 443 and no other, so the origin listens there, on a loopback address of its own."""
    pki, origin = CertificateAuthority(tmp_path / "pki"), Origin()
    try:
        held = socket.create_server((GITHUB, 443))
    except OSError as error:
        pytest.skip(f"NOT TESTED: port 443 of {GITHUB} cannot be had: {error}")
    server = await asyncio.start_server(origin.serve, sock=held, ssl=pki.issue("api.github.com").server_context(alpn=("http/1.1",)))
    (tmp_path / "file").touch(mode=0o600)
    (tmp_path / "file").write_text("secret-of-the-file\n")
    section = {
        "profiles": [str(VECTORS / "github.yaml")],
        "providers": [{"profile": "github", "callers": ["local"], "files": {"api_token": str(tmp_path / "file")}}],
    }
    options: dict[str, Any] = {"hosts": {"api.github.com": [GITHUB]}, "loopback": [f"{GITHUB}:443"], "pki": pki}
    async with server, running(tmp_path, [], section=section, **options) as rig:
        bridge = await rig.client()
        assert (await bridge.connect("api.github.com:443"))[0] == 200
        await bridge.start_tls("api.github.com", rig.ca_file)
        for client, start in ((bridge, ""), (await rig.client(), "https://api.github.com")):
            for method, path in (("POST", "/user"), ("GET", "/graphql")):
                answer = await client.ask(f"{method} {start}{path} HTTP/1.1", "Host: api.github.com", "Content-Length: 0")
                assert code_of(answer) == (403, "endpoint_closed")
            assert (await client.ask(f"GET {start}/user HTTP/1.1", "Host: api.github.com"))[0] == 200
        lines = [head.lower().split(b"\r\n") for head in origin.requests]
        assert [(one[0], one.count(b"authorization: bearer secret-of-the-file")) for one in lines] == [(b"get /user http/1.1", 1)] * 2
        await rig.close()


async def test_a_reload_detaches_a_provider_and_a_bad_one_changes_nothing(tmp_path: Path) -> None:  # G8, G18
    async with standing(tmp_path) as stand:
        await reload_in_steps(stand)


async def reload_in_steps(stand: Stand) -> None:
    file = stand.rig.folder / "robin.yaml"
    before = json.loads(file.read_text())
    client = await stand.bridged()
    assert b"secret-token" in (await client.ask(*stand.head("/api/1")))[2]

    async def reload(event: str, count: int, *, asked: int = 0, **changes: object) -> None:
        file.write_text(json.dumps({"version": 1, "gateway": {**before["gateway"], **changes}}))
        stand.rig.robin.send_signal(signal.SIGHUP)
        for _ in range(asked):
            status, _, body = await client.ask(*stand.head("/api/1"))
            assert (status, b"secret-token" in body) == (200, True)
        await stand.rig.robin.event(event, after=count)

    await reload("config_refused", 0, providers=[{"profile": "demo"}], asked=100)  # G8: as before, while it is read and then

    async def token() -> bytes:
        _, _, body = await client.ask(*stand.head("/api/1"))
        return body.partition(b"secret-token-")[2].partition(b"\r\n")[0]

    first = await token()
    await reload("config_loaded", 0, limits={"tunnels": 77})
    assert await token() == first  # what a token depends on is unchanged
    identities = before["gateway"]["identities"]
    path = identities["default"]["spiffe_socket"].removeprefix("unix://")
    (stand.rig.folder / "other.sock").symlink_to(path)
    other = {**identities["default"], "spiffe_socket": f"unix://{stand.rig.folder / 'other.sock'}"}
    await reload("config_loaded", 1, identities={**identities, "default": other})
    assert await token() not in {b"", first}  # another identity under the same name
    await reload("config_loaded", 2, providers=[])
    assert await token() == b""
    denied = {**before["gateway"]["policy"], "rules": [{"name": "none", "hosts": ["other.test"]}]}
    await reload("config_loaded", 3, providers=[], policy=denied)
    assert code_of(await client.ask(*stand.head("/api/1"))) == (403, "rule_default")

"""Passports with software of others: the public SDK as client, nginx and Envoy asking the forward-auth listener, and two foreign judges.

The configurations of nginx and Envoy are those of the how-to page, with the ports of this machine.
"""

import asyncio
import json
import random
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from tests.docs.pages import blocks_of
from tests.planes.broker.conftest import Life
from tests.planes.broker.rig import AUTHORITY, Rig, route
from tests.real.parts import debian, nodeclients, pyclients, trustplane
from tests.real.parts.ports import answers
from tests.real.parts.process import Server
from tests.real.parts.program import run
from tests.real.parts.scratch import scratch_folder
from tests.real.parts.webservers import envoy, nginx

from robin.cli.main import main
from robin.model.passport import HTTPSIG, PROFILES
from robin.testing.process import RobinProcess
from robin.testing.recording_upstream import RecordingUpstream
from robin.wire.compact_jws import encode_base64url
from robin.wire.passport_keys import public_jwk
from robin.wire.transcript import Transcript, build_transcript, hash_value, normalize_query

pytestmark = pytest.mark.real

PROGRAMS = Path(__file__).parent / "passports"
PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "verify-passports-behind-a-proxy.md"
SELF = {"source_type": "software_jwks", "issuer": "https://self.example", "trust_domain": "example.org"}
OF_ABC = ":ungWv48Bz+pBQUDeXa4iI7ADYaOWF3qctBD/YfIAFa0=:"
OWN = {"source_type": "software_jwks", "issuer": "https://issuer.example", "trust_domain": "example.org"}


@pytest.fixture
def folder() -> Any:
    with scratch_folder("passports") as made:
        yield made


@pytest.fixture
async def service() -> AsyncIterator[RecordingUpstream]:
    async with RecordingUpstream() as upstream:
        yield upstream


def block(language: str, start: str) -> str:
    """The block of the page in this language that begins so."""
    (found,) = (one.text for one in blocks_of(language) if one.page == PAGE and one.text.startswith(start))
    return found


def check_audit(life: Life, *accepted: str) -> None:
    """The chain verifies, and every decision of the verifier is in it."""
    assert main(["audit", "verify", str(life.folder / "state" / "audit.jsonl")]) == 0
    assert [one["reason_code"] for one in life.records("passport.verify")] == list(accepted)


# the SDK


async def test_the_sdk_gets_passports_and_its_requests_are_accepted_once(folder: Path, service: RecordingUpstream) -> None:
    """Items P2, P3 and P4."""
    life = Life(folder, service)
    for one in life.broker["issue"]["routes"]:
        one["allowed_sources"] = [OWN, SELF]
    life.write()
    key = Ed25519PrivateKey.generate()
    jwk = {**public_jwk(key), "kid": "self-1", "alg": "EdDSA"}
    issuer = {"iss": SELF["issuer"], "kind": "self", "source_type": "software_jwks", "profiles": ["transcript-v1"], "keys": [jwk]}
    issuer |= {"max_identity": "none", "max_key_protection": "software", "subject_exact": "spiffe://example.org/laptop"}
    life.make_bundle(lambda draft: draft["trust_domains"][0]["issuers"].append(issuer))
    own = {"state": "active", "request_base_url": f"http://{life.authority}", "kid": "self-1", "subject": issuer["subject_exact"]}
    own |= {
        "trust_domain": "example.org",
        "issuer": SELF["issuer"],
        "route_match_type": "Exact",
        "audience": "orders",
        "route_path": "/orders",
    }
    get, post = {**own, "method": "GET", "route_id": "read"}, {**own, "method": "POST", "route_id": "create"}
    profiles = [{**get, "name": "get"}, {**post, "name": "post"}, {**get, "name": "stranger", "subject": "spiffe://example.org/other"}]
    told = {"socket": life.socket, "base": f"http://{life.authority}", "authority": life.authority, "profiles": profiles}
    async with RobinProcess("broker", "--config", str(life.config)) as process:
        await process.event("started")
        got = await use_sdk(folder, {**told, "key": encode_base64url(key.private_bytes_raw())})
        for name in ("broker get", "broker post"):
            assert got[f"{name} reply"] == [True, "allow", "broker_passport_issued", 300]
            assert got[name] == [[200, ""], [403, "jti_replay"]]
        error = {"code": "insufficient_key_binding", "message": "The signer is weaker than the route requires", "retryable": False}
        error |= {"details": {"requested_key_binding": "attested_workload", "available_key_binding": "software"}}
        assert got["attested"] == [False, "insufficient_key_binding", 0, 0, None, error]
        assert got["wrong route"] == [False, "peer_route_not_allowed", None]
        assert got["own get"] == got["own post"] == [[200, ""], [403, "jti_replay"]]
        assert got["own stranger"] == [[403, "passport_untrusted_key"]] * 2
        assert [(one.method, one.target, one.body) for one in service.requests] == [
            (b"GET", b"/orders?a=1&b=x%20y", b""),
            (b"POST", b"/orders", b'{"order_id":"ord_123"}'),
            (b"GET", b"/orders?a=1", b""),
            (b"POST", b"/orders", b'{"a":1}'),
        ]
        subjects = [one.values(b"robin-passport-subject") for one in service.requests]
        assert subjects == [[b"spiffe://example.org/agent"]] * 2 + [[b"spiffe://example.org/laptop"]] * 2

        life.make_bundle(serial=2)  # without that issuer, and in force within a second or two
        await process.event("bundle_loaded", after=1)
        got = await use_sdk(folder, {"profiles": profiles[:1], "key": encode_base64url(key.private_bytes_raw())})
        assert got["own get"] == [[403, "passport_untrusted_key"]] * 2
    check_audit(life, *["passport_verified", "jti_replay"] * 4, *["passport_untrusted_key"] * 4)


async def test_the_sdk_builds_the_same_transcripts(tmp_path: Path) -> None:
    """Whatever the target, query and headers are: its lines are ours. The first two are of the published vectors (item P1)."""
    chosen = random.Random(9421)
    queries = ["", "z=last&a=2&a=10&space=a%20b&encoded=%7E&empty="]
    pieces = ["a", "b=", "%7e", "%2F", "x=%C3%A9", "=", "a=1", "A=1", "k=v=w", "~", "k=a%20b", "é=1", "a.b-c_d", "%41=%5a", "", "a+b"]
    queries += ["&".join(chosen.choices(pieces, k=chosen.randint(1, 6))) for _ in range(400)]
    asked = []
    for number, query in enumerate(queries):
        names = chosen.sample(["content-type", "x-tenant", "x-a", "accept"], k=chosen.randint(0, 3))
        headers = [[name, chosen.choice([" a ", "application/json", "a, b", "\ta", ""])] for name in names]
        one = {"method": chosen.choice(["GET", "post"]), "scheme": "HTTPS", "authority": "Orders.example:8443", "path": "/v1/orders"}
        one |= {"raw_query": query, "audience": "orders-api", "route_id": "orders.create", "body": f"body {number}", "headers": headers}
        one |= {"header_allow_list": sorted(names), "nonce": f"nonce-{number:08}", "issued_at_unix": 1740000000 + number}
        asked.append(one | {"passport_jti": f"jti-{number}", "key_binding": "software", "content_encoding": chosen.choice(["", "GZIP"])})
    theirs = (await use_sdk(tmp_path, {"transcripts": asked}))["transcripts"]
    for one, lines in zip(asked, theirs, strict=True):
        built = build_transcript(
            Transcript(
                method=one["method"],
                scheme=one["scheme"],
                authority=one["authority"],
                path=one["path"],
                query=one["raw_query"],
                audience=one["audience"],
                route_id=one["route_id"],
                content_encoding=one["content_encoding"],
                headers=tuple(sorted((name, hash_value(value)) for name, value in one["headers"])),
                body_sha256=hash_value(one["body"]),
                jti=one["passport_jti"],
                nonce=one["nonce"],
                issued_at=one["issued_at_unix"],
                key_binding=one["key_binding"],
            )
        )
        assert built.decode().split("\n") == lines, one
    assert normalize_query(queries[1]) == "a=10&a=2&empty=&encoded=~&space=a%20b&z=last"


async def use_sdk(home: Path, told: dict[str, Any]) -> dict[str, Any]:
    """What the program of the SDK told."""
    command = [trustplane.find(), PROGRAMS / "use_sdk.py"]
    return (await run(command, home=home, feed=json.dumps(told).encode())).told


# a Python service


@pytest.mark.parametrize("profile", PROFILES)
async def test_an_application_in_uvicorn_is_called_for_what_was_signed_once(folder: Path, service: RecordingUpstream, profile: str) -> None:
    life = Life(folder, service)
    life.make_bundle()
    verify = {name: life.broker["verify"].pop(name) for name in ("bundle", "bundle_keys", "authorities", "scheme", "clock_skew")}
    own = {**life.broker, "state_dir": str(folder / "service"), "verify": verify}
    del own["issue"], life.broker["verify"]
    life.write()
    (folder / "service.yaml").write_text(json.dumps({"version": 1, "broker": own}))
    packages = next((pyclients.find().parents[1] / "lib").glob("python*/site-packages"))
    port = int(life.authority.rpartition(":")[2])
    command = [sys.executable, PROGRAMS / "serve_uvicorn.py", packages, folder / "service.yaml", port]
    uvicorn = Server("uvicorn", command, folder=folder)
    async with RobinProcess("broker", "--config", str(life.config)) as process:
        await process.event("started")
        try:
            await asyncio.to_thread(uvicorn.start, lambda: answers(port))
            headers = [*await life.headers(profile=profile), *FORGED]
            status, got, _ = await life.send(headers)
            assert (status, got["passport"]["subject"], got["passport"]["route_id"]) == (200, "spiffe://example.org/agent", "read")
            assert [name for name in got["fields"] if name.startswith(("x-trustplane", "signature", "workload-identity"))] == []
            status, got, _ = await life.send(headers)
            assert status == (400 if profile == HTTPSIG else 403)
            kind = ("Content-Type", "application/json")
            body = {"method": "POST", "target": "/orders", "body": b'{"a":1}'}
            for more in ({}, {"chunked": True}):
                signed = await life.headers(profile=profile, fields=[[*kind]], **body)
                status, got, _ = await life.send([kind, *signed], **body, **more)
                assert (status, got["body"]) == (200, '{"a":1}')
            for (changes, *_), reason in zip(WRONG, reasons(profile), strict=True):
                _, got, _ = await life.send(await life.headers(profile=profile), **changes)
                assert got["reason"] == reason, changes
            upgrade = [
                ("Connection", "Upgrade"),
                ("Upgrade", "websocket"),
                ("Sec-WebSocket-Version", "13"),
                ("Sec-WebSocket-Key", "A" * 22 + "=="),
            ]
            assert (await life.send([*await life.headers(profile=profile), *upgrade]))[0] == 403
        finally:
            uvicorn.stop()
    audit = folder / "service" / "audit.jsonl"
    assert main(["audit", "verify", str(audit)]) == 0
    records = [json.loads(line) for line in audit.read_text().splitlines()]
    assert records[-1]["reason"] == "close", "sealed at the end of the lifespan"
    replay = "nonce_replay" if profile == HTTPSIG else "jti_replay"
    codes = ["passport_verified", replay, "passport_verified", "passport_verified", *reasons(profile), "transcript_ambiguous"]
    assert [one["reason_code"] for one in records if one["event"] == "passport.verify"] == codes


# a foreign judge of signatures


async def test_a_foreign_library_verifies_our_signatures_and_sees_each_change(tmp_path: Path) -> None:
    rig = Rig(route(), route("orders.create", method="POST", path_template="/orders", extra_components=["x-tenant"]))
    rig.now = time.time()
    fields = (("content-type", "application/json"), ("x-tenant", "blue"), ("authorization", "Bearer opaque"))
    good = [
        rig.signed(HTTPSIG),
        rig.signed(HTTPSIG, target="/orders/1?b=2&a=1&q=a+b&empty"),
        rig.signed(HTTPSIG, "POST", "/orders", body=b'{"a":1}', fields=fields),
    ]
    requests = [plain(one.method, one.target, one.fields) for one in good]
    changed = [
        {**requests[1], "url": requests[1]["url"].replace("b=2", "b=3")},
        {**requests[0], "method": "POST"},
        {**requests[0], "url": requests[0]["url"].replace("orders.example", "other.example")},
        {**requests[2], "headers": {**requests[2]["headers"], "content-type": "text/plain"}},
        {**requests[2], "headers": {**requests[2]["headers"], "x-tenant": "red"}},
        {**requests[2], "headers": {**requests[2]["headers"], "authorization": "Bearer other"}},
        {**requests[2], "headers": {**requests[2]["headers"], "content-digest": f"sha-256={OF_ABC}"}},
    ]
    command = [nodeclients.node(), PROGRAMS / "verify.mjs"]
    ended = await run(
        command, home=tmp_path, environment={"PACKAGES": str(nodeclients.find())}, feed=json.dumps(requests + changed).encode()
    )
    assert ended.told["verdicts"] == [True] * len(requests) + [False] * len(changed)


def plain(method: str, target: str, fields: tuple[tuple[str, str], ...]) -> dict[str, Any]:
    return {"method": method, "url": f"https://{AUTHORITY}{target}", "headers": dict(fields)}


# proxies that ask


WRONG: list[tuple[dict[str, Any], str, str]] = [
    ({"target": "/orders?a=1"}, "request_binding_mismatch", "invalid_request_proof"),
    ({"target": "//orders"}, "transcript_ambiguous", "bundle_route_missing"),
    ({"target": "/x/../orders"}, "transcript_ambiguous", "bundle_route_missing"),
    ({"target": "/%6frders"}, "transcript_ambiguous", "bundle_route_missing"),
    ({"method": "PUT"}, "bundle_route_missing", "bundle_route_missing"),
    ({"host": "other.example"}, "authority_not_served", "authority_not_served"),
    ({"body": b"x"}, "body_digest_mismatch", "proof_coverage_insufficient"),
    ({"body": b"x", "chunked": True}, "body_digest_mismatch", "proof_coverage_insufficient"),
]
"""What is changed of a signed GET of /orders, and the reasons of transcript-v1 and wimse-httpsig. A proxy would serve each of them."""

FORGED = [("Robin-Passport-Subject", "forged"), ("Robin-Passport-Route-Id", "forged"), ("Robin-Passport-Content-Digest", "forged")]


def behind(folder: Path, service: RecordingUpstream) -> Life:
    """A broker whose verifier is asked by a proxy; the proxy's address is the one that is served."""
    life = Life(folder, service)
    del life.broker["verify"]["inbound"]
    return life


@pytest.mark.parametrize("profile", PROFILES)
async def test_nginx_asks_and_forwards_what_was_signed_once(folder: Path, service: RecordingUpstream, profile: str) -> None:
    life = behind(folder, service)
    life.make_bundle()
    page = block("", "server {").replace("127.0.0.1:9090", life.forward).replace("127.0.0.1:8081", f"127.0.0.1:{service.port}")
    if profile != HTTPSIG:
        page = page.replace('proxy_set_header Signature "";', 'proxy_set_header Authorization "";')

    def configure(port: int, scratch: Path) -> str:
        life.serve(f"127.0.0.1:{port}")
        return page.replace("listen 127.0.0.1:8080;", f"listen {life.authority}; listen unix:{scratch}/h2.sock http2;")

    with nginx(configure) as started:
        async with RobinProcess("broker", "--config", str(life.config)) as process:
            await process.event("started")
            headers = [*await life.headers(profile=profile, target="/orders"), *FORGED]
            assert (await life.send(headers))[0] == 200
            assert (await life.send(headers))[0] == 403
            (seen,) = service.requests
            assert seen.values(b"robin-passport-subject") == [b"spiffe://example.org/agent"]
            assert (seen.values(b"robin-passport-route-id"), seen.values(b"robin-passport-content-digest")) == ([b"read"], [])
            gone = (b"signature-input", b"workload-identity-token") if profile == HTTPSIG else (b"authorization",)
            assert [name for name in gone if seen.values(name)] == []

            body = {"method": "POST", "target": "/asserted", "body": b"abc"}
            status, _, _ = await life.send([*await life.headers(profile=profile, **body), *FORGED], **body)
            assert status == 200
            assert service.requests[-1].body == b"abc"
            assert service.requests[-1].values(b"robin-passport-content-digest") == [f"sha-256={OF_ABC}".encode()]

            for changes, *_ in WRONG:
                found, _, _ = await life.send(await life.headers(profile=profile), **changes)
                assert found == 403, changes
            assert (await life.send([]))[0] == 401
            assert len(service.requests) == 2

            # HTTP/2 has bodies that no header announces
            command = [debian.find("curl"), "-q", "-sS", "--http2-prior-knowledge", "--unix-socket", started.folder / "h2.sock"]
            command += ["-XGET", "--data", "added", "-HContent-Type:", "-HContent-Length:", "-o/dev/null"]
            command += [f"http://{life.authority}/orders", *(f"-H{name}: {value}" for name, value in await life.headers(profile=profile))]
            await run(command, home=folder, codes=(0, 92))  # 92: nginx reset the stream since it did not read the body
            assert len(service.requests) == 2
    replay = "nonce_replay" if profile == HTTPSIG else "jti_replay"
    check_audit(life, "passport_verified", replay, "passport_verified", *reasons(profile), "passport_missing", "body_digest_mismatch")


def reasons(profile: str) -> list[str]:
    """The reasons of the changes for requests of this profile."""
    return [httpsig if profile == HTTPSIG else transcript for _, transcript, httpsig in WRONG]


@pytest.mark.parametrize("profile", PROFILES)
async def test_envoy_asks_and_forwards_what_was_signed_once(folder: Path, service: RecordingUpstream, profile: str) -> None:
    life = behind(folder, service)
    ask = yaml.safe_load(block("yaml", "name: envoy").replace("127.0.0.1:9090", life.forward))
    with envoy(
        {"listeners": [listener(ask)], "clusters": [cluster("robin", life.forward), cluster("service", f"127.0.0.1:{service.port}")]}
    ) as started:
        life.serve(f"127.0.0.1:{started.ports['front']}")
        life.make_bundle()
        async with RobinProcess("broker", "--config", str(life.config)) as process:
            await process.event("started")
            headers = [*await life.headers(profile=profile), *FORGED, ("X-TrustPlane-Subject", "forged")]
            headers += [("Robin_Passport_Subject", "forged"), ("x_trustplane_jti", "forged"), ("X-Other", "1")]
            assert (await life.send(headers))[0] == 200
            status, answer, _ = await life.send(headers)
            assert status == (400 if profile == HTTPSIG else 403)
            (seen,) = service.requests
            assert seen.values(b"robin-passport-subject") == [b"spiffe://example.org/agent"]
            assert seen.values(b"x-other") == [b"1"]
            assert [name for name, value in seen.fields if value == b"forged"] == []
            gone = ("authorization", "signature", "signature-input", "workload-identity-token", "robin-passport-content-digest")
            gone += ("x-trustplane-subject", "x-trustplane-nonce", "x-trustplane-proof")
            assert [name for name in gone if seen.values(name.encode())] == []

            kind = ("Content-Type", "application/json")
            body = {"method": "POST", "target": "/orders", "body": b'{"a":1}'}
            for more in ({}, {"chunked": True}):
                signed = await life.headers(profile=profile, fields=[[*kind]], **body)
                assert (await life.send([kind, *signed], **body, **more))[0] == 200
                assert service.requests[-1].body == b'{"a":1}'

            for (changes, *_), reason in zip(WRONG, reasons(profile), strict=True):
                _, answer, _ = await life.send(await life.headers(profile=profile), **changes)
                assert answer["reason"] == reason, changes
            signed = await life.headers(profile=profile, fields=[[*kind]], **body)
            assert (await life.send([kind, *signed], "POST", body=b'{"a":2}'))[0] in (400, 403)
            split = await life.headers(profile=profile, fields=[["content-type", "a/b,c/d"]])
            _, answer, _ = await life.send([*split, ("Content-Type", "a/b"), ("Content-Type", "c/d")])
            assert answer["reason"] == "transcript_ambiguous"
            added = [*await life.headers(profile=profile), ("Txn-Token", "abc"), ("Content-Type", "text/plain")]
            assert (await life.send(added))[0] in (400, 403)
            status, answer, head = await life.send([])
            assert (status, answer["reason"]) == (401, "passport_missing")
            assert b"accept-signature: " in head.lower()
            assert len(service.requests) == 3
    assert main(["audit", "verify", str(life.folder / "state" / "audit.jsonl")]) == 0


def listener(ask: dict[str, Any]) -> dict[str, Any]:
    prefix = "type.googleapis.com/envoy.extensions.filters"
    everything = {"match": {"prefix": "/"}, "route": {"cluster": "service"}}
    connections = {
        "@type": f"{prefix}.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "front",
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [everything]}]},
        "http_filters": [ask, {"name": "router", "typed_config": {"@type": f"{prefix}.http.router.v3.Router"}}],
    }
    return {
        "name": "front",
        "address": {"socket_address": {"address": "127.0.0.1", "port_value": 0}},
        "filter_chains": [{"filters": [{"name": "http", "typed_config": connections}]}],
    }


def cluster(name: str, address: str) -> dict[str, Any]:
    host, port = address.split(":")
    endpoint = {"endpoint": {"address": {"socket_address": {"address": host, "port_value": int(port)}}}}
    return {"name": name, "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": [endpoint]}]}}

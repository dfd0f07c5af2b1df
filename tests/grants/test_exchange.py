"""Exchanges of tokens and files end to end through the gateway: G2, G21 to G25, G31, G33 of grants.md, with a real issuer and origin."""

import base64
import json
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from joserfc import jwt
from joserfc.jwk import ECKey, RSAKey
from tests.grants.proxied import World, reply, token_reply, world

from robin.testing.manual_clock import ManualClock
from robin.testing.message import ReceivedRequest
from robin.testing.tokens import make_token

EXCHANGE = "grant_type: token_exchange"
TT = "urn:ietf:params:oauth:token-type:"
CA_TYPE = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"


def form(request: ReceivedRequest) -> list[tuple[str, str]]:
    return parse_qsl(request.body.decode(), keep_blank_values=True, strict_parsing=True)


def written(folder: Path, name: str, text: str, mode: int = 0o600) -> str:
    path = folder / name
    path.write_text(text)
    path.chmod(mode)
    return str(path)


NO_CACHE = "cache_ttl: 0s"


def client_key(kind: str) -> tuple[str, RSAKey | ECKey]:
    """A private key as its file holds it, and the same for another implementation."""
    if kind == "rsa-pem":
        key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode(), RSAKey.import_key(public)
    pair = ECKey.generate_key("P-256", parameters={"kid": "k1"})
    return json.dumps(pair.as_dict(private=True)), pair


def verified(token: str, key: RSAKey | ECKey) -> tuple[dict[str, Any], dict[str, Any]]:
    """Header and claims, once another implementation has verified the signature."""
    found = jwt.decode(token, key, algorithms=["RS256", "ES256"])
    return found.header, found.claims


def refuse_first(at: World) -> None:
    """The issuer takes the first call and closes the connection before a byte of a response."""
    replies = iter([b""])
    at.issuer.reply = lambda _: next(replies, token_reply("t"))


def caller(token: str) -> str:
    return f"X-Robin-Subject-Token: {token}\r\n"


async def test_g21_a_token_exchange_sends_its_parameters_in_their_order(tmp_path: Path) -> None:
    grant = f"{EXCHANGE}, audience: a, scopes: [s, t], resource: ['https://r.example/1', 'urn:r'], extra_params: {{x: '1 2'}}"
    async with world(tmp_path, grant=grant) as at:
        assert (await at.ask()).status == 200
        (asked,) = at.issuer.seen
        assertion = dict(form(asked))["client_assertion"]
        assert form(asked) == [
            ("grant_type", "urn:ietf:params:oauth:grant-type:token-exchange"),
            ("client_assertion_type", CA_TYPE),
            ("client_assertion", assertion),
            ("subject_token", assertion),
            ("subject_token_type", TT + "jwt"),
            ("requested_token_type", TT + "access_token"),
            ("audience", "a"),
            ("resource", "https://r.example/1"),
            ("resource", "urn:r"),
            ("scope", "s t"),
            ("x", "1 2"),
        ]
        assert b"%20" in asked.body
        assert at.authorizations == [[b"Bearer token-0"]]


async def test_g24_the_token_of_a_caller_is_exchanged_never_forwarded_and_never_shared(tmp_path: Path) -> None:
    grant = f"{EXCHANGE}, client_auth: none, client_id: c, subject_token: {{source: caller}}"
    async with world(tmp_path, grant=grant) as at:
        for _ in range(2):
            for subject in ("subject-one", "Bearer subject-two"):
                assert (await at.ask(fields=caller(subject))).status == 200
        assert [dict(form(asked))["subject_token"] for asked in at.issuer.seen] == ["subject-one", "subject-two"]
        assert at.authorizations == [[b"Bearer token-0"], [b"Bearer token-1"]] * 2
        assert not [seen for seen in at.origin.seen if seen.values(b"x-robin-subject-token")]
        past = make_token(expires_at=at.clock.wall() + 4).decode()
        missing, expired = "subject_token_missing", "subject_token_expired"
        for fields, code in (("", missing), (caller("a") * 2, missing), (caller("a,b"), missing), (caller(past), expired)):
            refused = await at.ask(fields=fields)
            assert (refused.status, refused.problem["code"], refused.value("retry-after")) == (401, code, None)
            assert refused.value("www-authenticate") == 'Bearer realm="robin-gateway"'
            assert refused.problem["provider"] == "demo"
        assert (len(at.issuer.seen), len(at.origin.seen)) == (2, 4)


STORED = "{name: stored}"


async def test_g22_two_identities_exchange_a_stored_token_in_two_stages(tmp_path: Path) -> None:
    files = {"stored": written(tmp_path, "stored", "stored-token\n")}
    overrides = "audience_overrides: [{host: b.localhost, audience: inner, scopes: [in]}]"
    grant = (
        f"{EXCHANGE}, audience: outer, scopes: [s], requested_token_type: '{TT}jwt', {overrides}, extra_params: {{x: z}}, "
        "subject_token: {source: provider_credential, credential: stored}"
    )
    endpoints = "[{host: a.localhost, port: %(port)d, tls: none}, {host: b.localhost, port: %(port)d, tls: none}]"
    provider = {"files": files, "stage1_identity": "first"}
    async with world(tmp_path, grant=grant, credentials=STORED, endpoints=endpoints, provider=provider) as at:
        at.issuer.reply = lambda request: token_reply(
            "final" if b"=token-1&" in request.body else "token-1", token_type="Bearer" if b"=token-1&" in request.body else "N_A"
        )
        assert [(await at.ask(host=host)).status for host in ("a.localhost", "b.localhost")] == [200, 200]
        first, second, third = (dict(form(asked)) for asked in at.issuer.seen)
        agent = "spiffe://robin.local/demo/agent"
        assert first["audience"] == agent
        assert (first["subject_token"], first["subject_token_type"], first["requested_token_type"]) == (
            "stored-token",
            TT + "access_token",
            TT + "access_token",
        )
        assert not {"scope", "x"} & set(first)
        assert [(one["subject_token"], one["subject_token_type"], one["requested_token_type"]) for one in (second, third)] == [
            ("token-1", TT + "access_token", TT + "jwt")
        ] * 2
        assert [(one["audience"], one["scope"]) for one in (second, third)] == [("outer", "s"), ("inner", "in")]
        subjects = [at.identities.subject_of(one["client_assertion"]) for one in (first, second, third)]
        assert subjects == ["spiffe://robin.local/demo/first", agent, agent]
        assert [b"stored-token" in asked.body for asked in at.issuer.seen] == [True, False, False]
        assert at.authorizations == [[b"Bearer final"]] * 2
        calls = await at.lines("grant_call", 3)
        assert [(one["grant"]["kind"], one["grant"]["audience"]) for one in calls[:2]] == [("token_exchange", agent), ("chain", "outer")]


CHAIN = """grant_type: chain, stages: [
 {grant_type: token_exchange, token_endpoint: '%(url)s/a', issuer: 'https://a.example', resource: ['https://b.example'], requested_token_type: 'TTjwt'},
 {grant_type: jwt_bearer, token_endpoint: '%(url)s/b', scopes: [s]}]""".replace("TT", TT).replace("\n", "")  # noqa: E501


@pytest.mark.parametrize(("kinds", "status"), [(("N_A", "Bearer"), 200), (("Bearer", "N_A"), 502)])
async def test_g23_of_a_chain_only_the_last_token_must_be_a_bearer_token(tmp_path: Path, kinds: tuple[str, str], status: int) -> None:
    async with world(tmp_path, chain=CHAIN) as at:
        replies = {b"/a": token_reply("first", token_type=kinds[0]), b"/b": token_reply("last", token_type=kinds[1])}
        at.issuer.reply = lambda request: replies[request.target]
        answered = await at.ask()
        assert (answered.status, [asked.target for asked in at.issuer.seen]) == (status, [b"/a", b"/b"])
        assert form(at.issuer.seen[1]) == [
            ("grant_type", "urn:ietf:params:oauth:grant-type:jwt-bearer"),
            ("assertion", "first"),
            ("scope", "s"),
        ]
        assert at.authorizations == ([[b"Bearer last"]] if status == 200 else [])
        if status != 200:
            assert answered.problem["code"] == "issuer_answer_invalid"


async def test_a_token_of_a_stage_that_the_next_issuer_refuses_is_fetched_once_more(tmp_path: Path) -> None:
    async with world(tmp_path, chain=CHAIN) as at:
        count = iter(range(9))
        refused = reply(400, b'{"error":"invalid_grant"}')
        at.issuer.reply = lambda asked: (
            token_reply(f"first-{next(count)}") if asked.target == b"/a" else refused if b"first-0" in asked.body else token_reply("last")
        )
        assert (await at.ask()).status == 200
        assert [asked.target for asked in at.issuer.seen] == [b"/a", b"/b", b"/a", b"/b"]
        at.drop_tokens()
        at.issuer.reply = lambda _: token_reply(make_token(expires_at=at.clock.wall() + 4).decode())
        ended = [await at.ask() for _ in range(3)]
        assert [(one.status, one.problem["code"]) for one in ended] == [(502, "subject_token_expired")] * 3
        assert len(at.issuer.seen) == 5


async def test_g25_a_token_in_a_file_is_used_as_it_stands_there(tmp_path: Path) -> None:
    path = Path(written(tmp_path, "token", "first\n"))
    async with world(tmp_path, plain="name: token", manual=True, provider={"files": {"token": str(path)}}) as at:
        clock = at.clock
        assert isinstance(clock, ManualClock)
        await at.ask()
        path.write_text("second")
        clock.advance(1)
        await at.ask()
        assert at.authorizations == [[b"Bearer first"], [b"Bearer second"]]
        past = make_token(expires_at=clock.wall() - 1).decode()
        for content, mode in (("", 0o600), ("x" * 17408, 0o600), ("a\nb", 0o600), ("a\rb", 0o600), (past, 0o600), ("a", 0o666), (None, 0)):
            path.unlink()
            if content is not None:
                written(tmp_path, "token", content, mode)
            clock.advance(1)
            refused = await at.ask()
            assert (refused.status, refused.problem["code"], refused.value("retry-after")) == (503, "static_credential_unavailable", "1")
        assert (len(at.origin.seen), at.issuer.seen) == (2, [])
        written(tmp_path, "token", "third")
        clock.advance(1)
        assert (await at.ask()).status == 200
        grant = (await at.lines("gateway.decision", 10))[-1]["grant"]
        assert (grant["kind"], grant["cache"], grant["identity_sub"]) == ("static_file", "bypass", None)
        assert grant["token_hash"].startswith("sha256:")


async def test_a_401_makes_a_file_be_looked_at_again_at_once(tmp_path: Path) -> None:
    path = Path(written(tmp_path, "token", "first"))
    async with world(tmp_path, plain="name: token", manual=True, provider={"files": {"token": str(path)}}) as at:
        at.origin.reply = lambda request: reply(401 if request.values(b"authorization") == [b"Bearer first"] else 200)
        assert (await at.ask()).status == 401
        written(tmp_path, "token", "second")
        assert (await at.ask()).status == 200


@pytest.mark.parametrize("kind", ["rsa-pem", "p256-jwk"])
async def test_g31_an_assertion_that_is_signed_with_a_key_is_new_for_every_call(tmp_path: Path, kind: str) -> None:
    text, public = client_key(kind)
    key = written(tmp_path, "key", text)
    grant = f"client_auth: private_key_jwt, client_id: c1, scopes: [s], {NO_CACHE}"
    async with world(tmp_path, grant=grant, provider={"files": {"token.key": key}}) as at:
        refuse_first(at)
        assert [(await at.ask()).status for _ in range(2)] == [200, 200]
        seen, now, ids = [dict(form(asked)) for asked in at.issuer.seen], at.clock.wall(), set()
        for one in seen:
            assert (one["client_assertion_type"], one["client_id"]) == (CA_TYPE, "c1")
            header, claims = verified(one["client_assertion"], public)
            assert header == {"alg": "RS256" if kind == "rsa-pem" else "ES256", "kid": header["kid"], "typ": "client-authentication+jwt"}
            assert (claims["iss"], claims["sub"], claims["aud"]) == ("c1", "c1", "https://issuer.example")
            assert (claims["exp"] - claims["iat"], abs(claims["iat"] - now) < 60) == (65, True)
            assert len(claims["jti"]) == 32
            ids.add(claims["jti"])
        assert len(ids) == len(seen) == 3
        assert at.identities.by_audience == {}, "no identity token is asked for"


async def test_an_actor_and_fresh_assertions(tmp_path: Path) -> None:
    actor = written(tmp_path, "actor", "actor-token")
    grant = (
        f"{EXCHANGE}, fresh_assertion: true, subject_token: {{source: caller, header: X_Subject, subject_token_type: 'urn:x:y'}}, "
        "actor_token: {source: file, actor_token_type: 'urn:a:b'}"
    )
    async with world(tmp_path, grant=grant, provider={"files": {"token": actor}}) as at:
        for subject in ("one", "two"):
            assert (await at.ask(fields=f"X-Subject: {subject}\r\n")).status == 200
        first, second = (dict(form(asked)) for asked in at.issuer.seen)
        assert first["client_assertion"] != second["client_assertion"]
        expected = {"subject_token": "one", "subject_token_type": "urn:x:y", "actor_token": "actor-token", "actor_token_type": "urn:a:b"}
        assert first.items() >= expected.items()
        assert not [seen for seen in at.origin.seen if seen.values(b"x-subject")]
        Path(actor).write_text("other")
        at.gateway.reload()
        assert (await at.ask(fields="X-Subject: one\r\n")).status == 200
        assert dict(form(at.issuer.seen[2]))["actor_token"] == "other"


async def test_a_refused_subject_of_a_caller_is_a_401_and_a_token_does_not_outlive_its_subject(tmp_path: Path) -> None:
    async with world(tmp_path, grant=f"{EXCHANGE}, subject_token: {{source: caller}}", manual=True) as at:
        clock = at.clock
        assert isinstance(clock, ManualClock)
        subject = make_token(expires_at=clock.wall() + 100).decode()
        assert (await at.ask(fields=caller(subject))).status == 200
        clock.advance(94)
        assert (await at.ask(fields=caller(subject))).status == 200
        clock.advance(2)
        expired = await at.ask(fields=caller(subject))
        assert (expired.status, expired.problem["code"]) == (401, "subject_token_expired")
        at.issuer.reply = lambda _: reply(400, b'{"error":"invalid_grant"}')
        refused = await at.ask(fields=caller("opaque"))
        assert (refused.status, refused.problem["code"], refused.problem["class"]) == (401, "subject_refused", "reauthorize")
        assert refused.value("retry-after") is not None


async def test_g46_many_subjects_of_callers_neither_flood_an_issuer_nor_fill_the_cache(tmp_path: Path) -> None:
    grants = {"issuer_rate": {"per_second": 1, "burst": 12}, "token_timeout": "900ms", "cache_max_entries": 5}
    async with world(tmp_path, grant=f"{EXCHANGE}, subject_token: {{source: caller}}", grants=grants, manual=True) as at:
        answered = [await at.ask(fields=caller(f"subject-{number}")) for number in range(20)]
        assert [one.status for one in answered] == [200] * 12 + [503] * 8
        assert answered[-1].problem["code"] == "issuer_overloaded"
        assert answered[-1].value("proxy-status") == 'robin-gateway; error=connection_limit_reached; details="issuer_overloaded"'
        assert (len(at.issuer.seen), len(at.origin.seen)) == (12, 12)
        assert b'\nrobin_grant_cache_entries{plane="gateway"} 5' in await at.scrape()


async def test_g53_nothing_shows_a_subject_an_actor_or_a_key(tmp_path: Path) -> None:
    text, _ = client_key("p256-jwk")
    private, subject, actor = json.loads(text)["d"], "canary-subject-0123456789", "canary-actor-0123456789"
    files = {"token": written(tmp_path, "actor", actor), "token.key": written(tmp_path, "key", text)}
    grant = (
        f"{EXCHANGE}, client_auth: private_key_jwt, client_id: c, subject_token: {{source: caller}}, "
        "actor_token: {source: file, actor_token_type: 'urn:a'}"
    )
    async with world(tmp_path, grant=grant, provider={"files": files}) as at:
        answers = [await at.ask(fields=caller(subject))]
        at.drop_tokens()
        at.issuer.reply = lambda _: reply(400, json.dumps({"error": "invalid_grant", "error_description": subject + actor}).encode())
        answers += [await at.ask(fields=caller(subject)), await at.ask(fields=caller(subject + " x"))]
        assert [one.status for one in answers] == [200, 401, 401]
        assertion = dict(form(at.issuer.seen[0]))["client_assertion"].split(".")[2]
        shown = b"".join(one.head + one.body for one in answers) + await at.scrape() + json.dumps(at.gateway.lines).encode()
        plane = at.gateway.runtime.plane
        shown += repr((plane, vars(plane), vars(plane)["_credentials"])).encode()
        for secret in (private, subject, actor, assertion):
            for encoded in (secret.encode(), base64.b64encode(secret.encode()), secret.encode().hex().encode()):
                assert encoded not in shown

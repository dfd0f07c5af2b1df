"""Grants beyond client_credentials with Keycloak as the issuer: assertions signed with a key, and tokens exchanged through the gateway.

The client is curl, which knows a proxy URL; the origin keeps the token that it got, and PyJWT verifies it with Keycloak's keys.
"""

import contextlib
import json
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from tests.real.parts import debian
from tests.real.parts.keycloak import Keycloak, Realm
from tests.real.parts.program import run
from tests.real.test_gateway_keycloak import answering

from robin.testing.process import RobinProcess

pytestmark = pytest.mark.real

PROFILE = """\
id: {name}
display_name: Keycloak
credentials: [{{name: token, token_grant: {{{grant}}}}}]
endpoints: [{{host: {name}.localhost, port: {port}, tls: none}}]
"""
KEYED = "client_auth: private_key_jwt, client_id: {client}"
EXCHANGE = "grant_type: token_exchange, audience: target, " + KEYED
GRANTS = {
    "first": "preset: keycloak, issuer: '{issuer}', " + KEYED.format(client="app"),
    "exchanged": "preset: keycloak, issuer: '{issuer}', subject_token: {{source: caller}}, " + EXCHANGE.format(client="robin"),
    "chained": (
        "grant_type: chain, stages: [{{preset: keycloak, issuer: '{issuer}', "
        + KEYED.format(client="robin")
        + "}}, {{preset: keycloak, issuer: '{issuer}', "
        + EXCHANGE.format(client="robin")
        + "}}]"
    ),
}


def written(folder: Path, name: str, key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> tuple[str, dict[str, Any]]:
    """The private key in a file, and its public half for the issuer, with the kid that Robin gives a key without one."""
    from robin.model.secret import Secret  # noqa: PLC0415
    from robin.wire.client_assertion import parse_key  # noqa: PLC0415 - the kid is Robin's choice

    path = folder / name
    path.touch(mode=0o600)
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    path.write_bytes(pem)
    found = parse_key(Secret(pem))
    algorithm: Any = jwt.algorithms.RSAAlgorithm if isinstance(key, rsa.RSAPrivateKey) else jwt.algorithms.ECAlgorithm
    jwk = json.loads(algorithm.to_jwk(key.public_key()))
    return str(path), {**jwk, "kid": found.kid, "alg": found.algorithm, "use": "sig"}


def claims_of(realm: Realm, token: str, audience: str | None = None) -> dict[str, Any]:
    kid = jwt.get_unverified_header(token)["kid"]
    (key,) = [jwt.PyJWK(one) for one in realm.jwks()["keys"] if one["kid"] == kid]
    found: dict[str, Any] = jwt.decode(
        token, key=key, algorithms=["RS256"], audience=audience, issuer=realm.issuer, options={"verify_aud": audience is not None}
    )
    return found


@contextlib.asynccontextmanager
async def gateway(folder: Path, realm: Realm, port: int, keys: Mapping[str, str]) -> AsyncIterator[tuple[RobinProcess, str]]:
    """The plane, and the URL of its proxy."""
    providers = []
    for name, grant in GRANTS.items():
        (folder / f"{name}.yaml").write_text(PROFILE.format(name=name, port=port, grant=grant.format(issuer=realm.issuer)))
        key = keys["app" if name == "first" else "robin"]
        provider = {"profile": name, "callers": ["local"], "files": {"token.key": key}}
        providers.append({**provider, "unsafe_plaintext": [f"{name}.localhost"]})
    section = {
        "listeners": [{"name": "proxy", "listen": "127.0.0.1:0"}],
        "admin": {"listen": "127.0.0.1:0"},
        "drain": {"min": "0s", "max": "5s"},
        "profiles": ["*.yaml"],
        "providers": providers,
        "addresses": {"hosts": {f"{name}.localhost": ["127.0.0.1"] for name in GRANTS}, "unsafe_loopback": [f"127.0.0.1:{port}"]},
    }
    file = folder / "robin.json"
    file.write_text(json.dumps({"version": 1, "gateway": section}))
    async with RobinProcess("gateway", "--config", str(file)) as robin:
        listening = await robin.event("listening")
        await robin.event("started")
        yield robin, f"http://{listening['listen'][0]}"


async def test_keycloak_issues_and_exchanges_tokens_for_a_client_that_signs_with_a_key(tmp_path: Path, keycloak: Keycloak) -> None:
    realm = keycloak.new_realm()
    app_key, app_jwk = written(tmp_path, "app.pem", ec.generate_private_key(ec.SECP256R1()))
    robin_key, robin_jwk = written(tmp_path, "robin.pem", rsa.generate_private_key(public_exponent=65537, key_size=2048))
    realm.add_key_client("target", {**app_jwk, "kid": "t"})
    realm.add_key_client("robin", robin_jwk, audiences=["target", "robin"])
    realm.add_key_client("app", app_jwk, audiences=["robin"])
    seen: list[str] = []

    def respond(_path: str, fields: Mapping[str, str]) -> tuple[int, bytes]:
        seen.append(fields["Authorization"].removeprefix("Bearer "))
        assert "X-Robin-Subject-Token" not in fields
        return 200, b"{}"

    with answering(respond) as origin:
        port = int(origin.rpartition(":")[2])
        async with gateway(tmp_path, realm, port, {"app": app_key, "robin": robin_key}) as (robin, proxy):

            async def curl(name: str, *words: str) -> str:
                command = [debian.find("curl"), "-q", "-sS", "-o", tmp_path / "body", "-w", "%{http_code}", "-x", proxy, *words]
                ended = await run([*command, f"http://{name}.localhost:{port}/"], home=tmp_path)
                return ended.stdout.decode()

            assert await curl("first") == "200", (tmp_path / "body").read_text()
            (subject,) = seen
            assert claims_of(realm, subject, "robin")["azp"] == "app"  # private_key_jwt, ES256

            assert await curl("exchanged") == "401"
            assert await curl("exchanged", "-H", f"X-Robin-Subject-Token: Bearer {subject}") == "200", (tmp_path / "body").read_text()
            exchanged = claims_of(realm, seen[1], "target")  # RS256, and RFC 8693
            assert exchanged["azp"] == "robin"
            assert exchanged["sub"] == jwt.decode(subject, options={"verify_signature": False})["sub"]

            assert await curl("chained") == "200", (tmp_path / "body").read_text()
            assert claims_of(realm, seen[2], "target")["azp"] == "robin"

            assert await curl("exchanged", "-H", "X-Robin-Subject-Token: no-token-of-keycloak") in {"401", "502"}
            assert len(seen) == 3
            calls = [entry for entry in robin.events if entry.get("event") == "grant_call"]
            assert [call["status"] for call in calls] == [200, 200, 200, 200, 400]
            log = "\n".join(line for _, line in robin.lines)
            assert not [token for token in seen if token.split(".")[2] in log]

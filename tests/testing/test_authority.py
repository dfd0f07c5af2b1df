"""IdentityAuthority: its tokens have the platforms' claims, and a verifier that we did not write accepts their signatures."""

import base64
import json

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from robin.testing.authority import IdentityAuthority, SigningKey, base64url
from robin.testing.manual_clock import ManualClock


def decode(part: bytes) -> bytes:
    return base64.urlsafe_b64decode(part + b"=" * (-len(part) % 4))


def claims_of(token: bytes) -> dict:
    return json.loads(decode(token.split(b".")[1]))


def header_of(token: bytes) -> dict:
    return json.loads(decode(token.split(b".")[0]))


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(wall=1_780_000_000.75)


@pytest.fixture
def authority(clock: ManualClock) -> IdentityAuthority:
    return IdentityAuthority(issuer="https://issuer.test", clock=clock)


def test_a_projected_token_has_the_claims_of_the_token_request_api(authority):
    claims = claims_of(authority.service_account_token(audience="broker.test", lifetime_s=40))
    assert claims["aud"] == ["broker.test"]
    assert claims["iss"] == "https://issuer.test"
    assert claims["sub"] == "system:serviceaccount:demo:agent"
    assert (claims["iat"], claims["nbf"], claims["exp"]) == (1_780_000_000, 1_780_000_000, 1_780_000_041)
    assert set(claims["kubernetes.io"]) == {"namespace", "node", "pod", "serviceaccount"}
    assert claims["kubernetes.io"]["serviceaccount"]["name"] == "agent"
    assert len(claims["jti"]) == 32


def test_a_jwt_svid_has_the_required_claims_and_a_spiffe_subject(authority):
    token = authority.jwt_svid(audience=["a", "b"], lifetime_s=30, path="/x")
    assert claims_of(token) == {
        "aud": ["a", "b"],
        "exp": 1_780_000_031,
        "iat": 1_780_000_000,
        "nbf": 1_780_000_000,
        "iss": "https://issuer.test",
        "sub": "spiffe://robin.test/x",
    }
    assert header_of(token)["alg"] == "ES256"
    assert header_of(token)["typ"] == "JWT"


def test_two_tokens_of_one_second_differ(authority):
    assert authority.service_account_token(audience="a") != authority.service_account_token(audience="a")


def test_claims_can_be_replaced_and_a_header_given_whole(authority):
    assert claims_of(authority.service_account_token(audience="a", sub="other"))["sub"] == "other"
    assert header_of(authority.sign({}, header={"alg": "none"})) == {"alg": "none"}


def test_the_signature_verifies_with_the_published_key(authority):
    message, _, signature = authority.jwt_svid(audience="a").rpartition(b".")
    jwk = authority.jwks()["keys"][0]
    raw = decode(signature)
    assert len(raw) == 64
    numbers = ec.EllipticCurvePublicNumbers(
        int.from_bytes(decode(jwk["x"].encode())), int.from_bytes(decode(jwk["y"].encode())), ec.SECP256R1()
    )
    numbers.public_key().verify(
        encode_dss_signature(int.from_bytes(raw[:32]), int.from_bytes(raw[32:])), message, ec.ECDSA(hashes.SHA256())
    )


def test_a_new_key_signs_at_once_and_the_old_one_is_published_once_more(authority):
    first = authority.jwks()["keys"][0]["kid"]
    authority.rotate_key()
    second = header_of(authority.jwt_svid(audience="a"))["kid"]
    assert second != first
    assert [key["kid"] for key in authority.jwks()["keys"]] == [second, first]
    authority.rotate_key()
    assert first not in [key["kid"] for key in authority.jwks()["keys"]]


def test_no_private_part_is_published():
    assert set(SigningKey().jwk) == {"crv", "kty", "x", "y", "kid", "alg", "use"}


def test_base64url_has_no_padding():
    assert base64url(b"\xff\xfe") == "__4"

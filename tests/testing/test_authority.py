"""IdentityAuthority: its tokens have the platforms' claims, and the key that signs is the one it publishes."""

import json

import pytest
from tests.testing.test_inspection import decode

from robin.testing.authority import IdentityAuthority
from robin.testing.manual_clock import ManualClock


def part(token: bytes, at: int) -> dict:
    """The header (0) or the claims (1)."""
    return json.loads(decode(token.split(b".")[at]))


@pytest.fixture
def authority() -> IdentityAuthority:
    return IdentityAuthority(issuer="https://issuer.test", clock=ManualClock(wall=1_780_000_000.75))


def test_a_projected_token_has_the_claims_of_the_token_request_api(authority):
    claims = part(authority.service_account_token(audience="broker.test", lifetime_s=40), 1)
    assert (claims["aud"], claims["iss"], claims["sub"]) == (["broker.test"], "https://issuer.test", "system:serviceaccount:demo:agent")
    assert (claims["iat"], claims["nbf"], claims["exp"]) == (1_780_000_000, 1_780_000_000, 1_780_000_041)
    assert set(claims["kubernetes.io"]) == {"namespace", "node", "pod", "serviceaccount"}
    assert len(claims["jti"]) == 32


def test_a_jwt_svid_has_the_required_claims_and_a_spiffe_subject(authority):
    token = authority.jwt_svid(audience=["a", "b"], lifetime_s=30, path="/x")
    assert part(token, 1) == {
        "aud": ["a", "b"],
        "exp": 1_780_000_031,
        "iat": 1_780_000_000,
        "nbf": 1_780_000_000,
        "iss": "https://issuer.test",
        "sub": "spiffe://robin.test/x",
    }
    assert (part(token, 0)["alg"], part(token, 0)["typ"]) == ("ES256", "JWT")


def test_a_new_key_signs_at_once_and_the_old_one_is_published_once_more(authority):
    first = authority.jwks()["keys"][0]["kid"]
    authority.rotate_key()
    second = part(authority.jwt_svid(audience="a"), 0)["kid"]
    assert second != first
    assert [key["kid"] for key in authority.jwks()["keys"]] == [second, first]
    authority.rotate_key()
    assert first not in [key["kid"] for key in authority.jwks()["keys"]]
    assert all(set(key) == {"crv", "kty", "x", "y", "kid", "alg", "use"} for key in authority.jwks()["keys"]), "only public parts"

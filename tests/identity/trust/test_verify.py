"""What is accepted and what is refused, by reason: tokens of a foreign library, and attacks on every part of a token."""

import hashlib
import hmac
import json
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st
from tests.identity.trust.parts import AUDIENCE, CLAIMS, ISSUER, NOW, jwk, key_set, private_key, segment, settings, sign, sign_raw

from robin.identity.trust.key_sources import KeysUnavailable
from robin.identity.trust.keys import KeySet
from robin.identity.trust.settings import ALGORITHMS, JwksSettings
from robin.identity.trust.verify import REASONS, NotVerified, TokenVerifier, VerifiedClaims
from robin.model.secret import Secret

ALL = ("RSA", "P-256", "P-384", "P-521", "Ed25519")
KEYS = key_set(*(jwk(kind, kid=kind) for kind in ALL))
HEADER = {"alg": "ES256", "kid": "P-256"}


class FixedKeys:
    """A key source set by hand; `renewed` is what a renewal finds."""

    def __init__(self, keys: KeySet | None, renewed: KeySet | None = None) -> None:
        self.keys = keys
        self.renewed = renewed
        self.renewals = 0

    def ready(self) -> KeySet | None:
        return self.keys

    async def obtain(self) -> KeySet:
        if self.keys is None:
            raise KeysUnavailable("connect")
        return self.keys

    async def renew(self) -> KeySet:
        self.renewals += 1
        self.keys = self.renewed or self.keys
        return await self.obtain()


def verify(token: bytes, keys: KeySet = KEYS, **changes: Any) -> VerifiedClaims | None:
    return TokenVerifier(settings(**changes), FixedKeys(keys), lambda: NOW).ready(Secret(token))


def reason(token: bytes, keys: KeySet = KEYS, **changes: Any) -> str:
    with pytest.raises(NotVerified) as raised:
        verify(token, keys, **changes)
    shown = repr(raised.value) + str(raised.value)
    assert not any(len(part) > 4 and part.decode("latin-1") in shown for part in token.split(b"."))
    assert raised.value.reason in REASONS
    return raised.value.reason


def without(*names: str) -> dict[str, Any]:
    return {name: value for name, value in CLAIMS.items() if name not in names}


# accepted


@pytest.mark.parametrize("algorithm", sorted(ALGORITHMS))
def test_a_token_of_each_algorithm_is_accepted_and_its_claims_are_returned(algorithm: str) -> None:
    found = verify(sign(CLAIMS | {"more": {"deep": [1]}}, algorithm=algorithm))
    assert found is not None
    assert (found.issuer, found.subject, found.audiences, found.algorithm) == (ISSUER, "alice", (AUDIENCE,), algorithm)
    assert (found.expires_at, found.issued_at) == (NOW + 300, NOW - 1)
    assert found.claims["more"] == {"deep": [1]}


def test_ed448_is_accepted_as_eddsa() -> None:
    assert verify(sign(kind="Ed448", algorithm="EdDSA"), key_set(jwk("Ed448", kid="Ed448"))) is not None


@pytest.mark.parametrize(
    ("claims", "changes"),
    [
        ({"aud": ["x", "other"]}, {}),
        ({"exp": NOW - 29.9, "iat": NOW - 300}, {}),
        ({"nbf": NOW + 30}, {}),
        ({"iat": NOW + 30}, {}),
        ({"iat": NOW - 86100}, {}),
        ({"exp": int(NOW) + 86430, "iat": None}, {}),
        ({"sub": "s" * 2048}, {}),
        ({"iss": None}, {"issuer": None}),
        ({"iss": "https://another.example"}, {"issuer": None}),
    ],
)
def test_claims_at_their_limits_are_accepted(claims: dict[str, Any], changes: dict[str, Any]) -> None:
    given_claims = {name: value for name, value in (CLAIMS | claims).items() if value is not None}
    assert verify(sign(given_claims), **changes) is not None


@pytest.mark.parametrize("kind", ["JWT", "jwt", "JOSE", "at+jwt", "AT+JWT"])
def test_the_types_of_tokens_are_accepted_in_any_case(kind: str) -> None:
    assert verify(sign(header={"typ": kind})) is not None


def test_a_token_without_kid_is_accepted_if_the_set_has_one_key() -> None:
    token = sign_raw(segment({"alg": "ES256"}), segment(CLAIMS))
    assert verify(token, key_set(jwk("P-256"))) is not None
    assert reason(token) == "missing_kid"
    assert reason(token, key_set(jwk("P-256"), jwk("P-256/2"))) == "missing_kid"


# refused: claims


@pytest.mark.parametrize(
    ("claims", "expected"),
    [
        (without("exp"), "bad_exp"),
        (CLAIMS | {"exp": None}, "bad_exp"),
        (CLAIMS | {"exp": True}, "bad_exp"),
        (CLAIMS | {"exp": str(NOW + 300)}, "bad_exp"),
        (CLAIMS | {"exp": [NOW + 300]}, "bad_exp"),
        (CLAIMS | {"exp": 10**400}, "bad_exp"),
        (CLAIMS | {"exp": 2**63}, "bad_exp"),
        (CLAIMS | {"exp": -1}, "expired"),
        (CLAIMS | {"exp": 0}, "expired"),
        (CLAIMS | {"exp": NOW - 30}, "expired"),
        (CLAIMS | {"exp": NOW - 31}, "expired"),
        (CLAIMS | {"nbf": NOW + 31}, "not_yet_valid"),
        (CLAIMS | {"nbf": "soon"}, "bad_nbf"),
        (CLAIMS | {"nbf": False}, "bad_nbf"),
        (CLAIMS | {"nbf": None}, "bad_nbf"),
        (CLAIMS | {"iat": NOW + 31}, "issued_in_future"),
        (CLAIMS | {"iat": "then"}, "bad_iat"),
        (CLAIMS | {"iat": NOW - 86101}, "too_long_lived"),
        (CLAIMS | {"exp": NOW + 86400}, "too_long_lived"),
        (without("iat") | {"exp": NOW + 86431}, "too_long_lived"),
        (without("iss"), "bad_iss"),
        (CLAIMS | {"iss": None}, "bad_iss"),
        (CLAIMS | {"iss": [ISSUER]}, "bad_iss"),
        (CLAIMS | {"iss": ISSUER + "/"}, "bad_iss"),
        (CLAIMS | {"iss": ISSUER.upper()}, "bad_iss"),
        (CLAIMS | {"iss": ISSUER + "\u200b"}, "bad_iss"),
        (CLAIMS | {"iss": ISSUER.replace("e", "\u0435", 1)}, "bad_iss"),
        (without("aud"), "bad_aud"),
        (CLAIMS | {"aud": []}, "bad_aud"),
        (CLAIMS | {"aud": "robins"}, "bad_aud"),
        (CLAIMS | {"aud": AUDIENCE + "\x00"}, "bad_aud"),
        (CLAIMS | {"aud": [AUDIENCE, 1]}, "bad_aud"),
        (CLAIMS | {"aud": [[AUDIENCE]]}, "bad_aud"),
        (CLAIMS | {"aud": {AUDIENCE: 1}}, "bad_aud"),
        (without("sub"), "bad_sub"),
        (CLAIMS | {"sub": ""}, "bad_sub"),
        (CLAIMS | {"sub": 7}, "bad_sub"),
        (CLAIMS | {"sub": "s" * 2049}, "bad_sub"),
    ],
)
def test_a_wrong_claim_is_refused(claims: dict[str, Any], expected: str) -> None:
    assert reason(sign(claims)) == expected


# refused: header and key


@pytest.mark.parametrize(
    "algorithm", ["none", "None", "NONE", "", "HS256", "HS512", "RS256 ", "rs256", "ES256K", "RSA1_5", "dir", 7, None, ["ES256"]]
)
def test_an_algorithm_outside_the_configured_ones_is_refused(algorithm: object) -> None:
    assert reason(sign_raw(segment({"alg": algorithm, "kid": "P-256"}), segment(CLAIMS))) == "algorithm"


def test_an_algorithm_that_is_not_configured_is_refused_though_the_key_fits() -> None:
    assert reason(sign(algorithm="RS256"), algorithms=frozenset({"ES256"})) == "algorithm"


@pytest.mark.parametrize("signature", [b"", b"AA"])
def test_an_unsigned_token_is_refused(signature: bytes) -> None:
    unsigned = b".".join((segment({"alg": "none"}), segment(CLAIMS), signature))
    assert reason(unsigned) == ("malformed" if not signature else "algorithm")


@pytest.mark.parametrize("form", [(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo), (Encoding.DER, PublicFormat.PKCS1), "jwk"])
def test_the_public_key_as_a_secret_of_hmac_is_refused(form: Any) -> None:
    """Algorithm confusion: RS256's public key is known, so HS256 with it as the secret could be made by anyone."""
    public = private_key("RSA").public_key()
    secret = json.dumps(jwk("RSA", kid="RSA")).encode() if form == "jwk" else public.public_bytes(*form)
    for claimed in ("HS256", "RS256"):
        signed = segment({"alg": claimed, "kid": "RSA"}) + b"." + segment(CLAIMS)
        token = signed + b"." + segment(hmac.new(secret, signed, hashlib.sha256).digest())
        assert reason(token) == ("algorithm" if claimed == "HS256" else "signature")


@pytest.mark.parametrize(
    ("algorithm", "kid"),
    [
        ("ES256", "P-384"),
        ("ES256", "RSA"),
        ("ES384", "P-256"),
        ("ES512", "P-384"),
        ("RS256", "P-256"),
        ("PS256", "Ed25519"),
        ("EdDSA", "P-256"),
    ],
)
def test_an_algorithm_that_does_not_fit_the_named_key_is_refused(algorithm: str, kid: str) -> None:
    assert reason(sign(algorithm=algorithm, header={"kid": kid})) == "key_mismatch"


@pytest.mark.parametrize(("bound", "used"), [("RS256", "PS256"), ("RS256", "RS512"), ("PS384", "RS384")])
def test_a_key_that_its_set_binds_to_one_algorithm_verifies_no_other(bound: str, used: str) -> None:
    assert reason(sign(algorithm=used), key_set(jwk("RSA", kid="RSA", alg=bound))) == "key_mismatch"
    assert verify(sign(algorithm=bound), key_set(jwk("RSA", kid="RSA", alg=bound))) is not None


@pytest.mark.parametrize(
    "embedded",
    [
        {"jwk": jwk("P-256/2")},
        {"jku": "https://evil.example/jwks"},
        {"x5u": "https://evil.example/cert"},
        {"x5c": ["AAAA" * 1000]},
        {"x5t": "AAAA"},
    ],
    ids=lambda members: next(iter(members)),
)
def test_keys_that_a_token_brings_or_names_are_ignored(embedded: dict[str, Any]) -> None:
    assert verify(sign(header=embedded)) is not None
    assert reason(sign(kind="P-256/2", header=embedded | {"kid": "P-256"})) == "signature"


@pytest.mark.parametrize("kid", ["", "unknown", "p-256", "P-256 ", "../../dev/null", "P-256' OR '1'='1", "P\u2011256", "k" * 5000])
async def test_a_kid_is_a_name_and_nothing_else(kid: str) -> None:
    keys = FixedKeys(KEYS)
    verifier = TokenVerifier(settings(), keys, lambda: NOW)
    token = Secret(sign(header={"kid": kid}))
    assert verifier.ready(token) is None
    with pytest.raises(NotVerified, match="unknown_kid"):
        await verifier.obtain(token)
    assert keys.renewals == 1


@pytest.mark.parametrize("kid", [1, None, True, ["P-256"], {"kid": "P-256"}])
def test_a_kid_that_is_no_text_is_refused(kid: object) -> None:
    assert reason(sign_raw(segment({"alg": "ES256", "kid": kid}), segment(CLAIMS))) == "bad_kid"


@pytest.mark.parametrize(
    "header", [{"crit": ["exp"], "exp": 1}, {"crit": []}, {"crit": ["b64"], "b64": False}, {"b64": False}, {"b64": True}], ids=json.dumps
)
def test_a_header_that_must_be_understood_is_refused(header: dict[str, Any]) -> None:
    assert reason(sign_raw(segment(HEADER | header), segment(CLAIMS))) == "critical_header"


@pytest.mark.parametrize("kind", ["dpop+jwt", "secevent+jwt", "JWE", "", 1, None, ["JWT"], "JWT\u0130"])
def test_a_token_of_another_type_is_refused(kind: object) -> None:
    assert reason(sign_raw(segment(HEADER | {"typ": kind}), segment(CLAIMS))) == "bad_typ"


# refused: form and signature


DUPLICATE = segment(b'{"sub":"alice","aud":"robin","exp":%d,"iss":"%b","sub":"root"}' % (NOW + 60, ISSUER.encode()))


@pytest.mark.parametrize(
    ("header", "payload"),
    [
        (segment(b'{"alg":"ES256","kid":"P-256","alg":"HS256"}'), segment(CLAIMS)),
        (segment(b'{"alg":"ES256","kid":"P-256","\\u0061lg":"none"}'), segment(CLAIMS)),
        (segment(HEADER), DUPLICATE),
        (segment(HEADER), segment(b'{"a":{"b":1,"b":2}}')),
        (segment(HEADER), segment(b'{"exp":NaN}')),
        (segment(HEADER), segment(b'{"exp":Infinity}')),
        (segment(HEADER), segment(b'{"exp":' + b"9" * 5000 + b"}")),
        (segment(HEADER), segment(b"[" * 6000 + b"]" * 6000)),
        (segment(HEADER), segment(b'{"a":' * 2000 + b"1" + b"}" * 2000)),
        (segment(HEADER), segment(b"[]")),
        (segment(HEADER), segment(b'"text"')),
        (segment(HEADER), segment(b"")),
        (segment(HEADER), segment(b"{}x")),
        (segment(HEADER), segment(b"\xef\xbb\xbf{}")),
        (segment(HEADER), segment(json.dumps(CLAIMS).encode("utf-16"))),
        (segment(HEADER), segment(b'{"sub":"\xff"}')),
        (segment(b"[]"), segment(CLAIMS)),
        (segment(b"{"), segment(CLAIMS)),
    ],
)
def test_json_that_is_not_one_plain_object_is_refused_though_the_signature_is_good(header: bytes, payload: bytes) -> None:
    assert reason(sign_raw(header, payload)) == "malformed"


GOOD = sign()


@pytest.mark.parametrize(
    "token",
    [
        b"",
        b".",
        b"..",
        b"a.b",
        b"....",
        GOOD + b".x",
        GOOD + b"\n",
        b" " + GOOD,
        GOOD + b"=",
        GOOD + b"==" * 100,
        GOOD.replace(b".", b"=.", 1),
        GOOD[:-1] + bytes([GOOD[-1] + 1]),  # the same signature in another spelling
        GOOD.replace(b".", b"%2e"),
        GOOD.replace(b".", "\uff0e".encode()),
        b"Bearer " + GOOD,
        json.dumps({"payload": "x", "signatures": []}).encode(),
        GOOD + b"\x00",
    ],
)
def test_what_is_not_one_canonical_compact_token_is_refused(token: bytes) -> None:
    assert reason(token) == "malformed"


def test_a_token_above_16_kib_is_refused_unread() -> None:
    assert reason(sign(CLAIMS | {"x": "y" * 16384})) == "too_large"
    assert verify(sign(CLAIMS | {"x": "y" * 11000})) is not None


@pytest.mark.parametrize("algorithm", sorted(ALGORITHMS))
def test_a_signature_that_is_changed_cut_padded_or_anothers_is_refused(algorithm: str) -> None:
    token = sign(algorithm=algorithm)
    head, payload, signature = token.split(b".")
    other = sign(CLAIMS | {"sub": "mallory"}, algorithm=algorithm).split(b".")
    flipped = bytes([signature[10] ^ 1]) if signature[10:11] not in b"-_" else b"A"
    for forged in (
        signature[:10] + (flipped if flipped.isalnum() else b"B") + signature[11:],
        signature[:-4],
        signature + b"AAAA",
        b"AAAA",
        segment(bytes(64)),
        segment(bytes(len(signature) * 3 // 4)),
        other[2],
    ):
        assert reason(b".".join((head, payload, forged))) in {"signature", "malformed"}
    assert reason(b".".join((head, other[1], signature))) == "signature"


def test_a_der_signature_of_es256_is_refused() -> None:
    signed = segment(HEADER) + b"." + segment(CLAIMS)
    assert reason(signed + b"." + segment(private_key("P-256").sign(signed, ec.ECDSA(hashes.SHA256())))) == "signature"


@given(st.data())
def test_a_token_with_any_one_byte_changed_is_refused(data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(GOOD) - 1))
    byte = data.draw(st.integers(0, 255).filter(lambda value: value != GOOD[at]))
    changed = GOOD[:at] + bytes([byte]) + GOOD[at + 1 :]
    try:
        found = verify(changed)
    except NotVerified:
        return
    assert found is None, "a changed token is accepted"  # None: it names a kid that the set does not have


@given(st.binary(max_size=400) | st.text(max_size=200).map(str.encode))
def test_bytes_of_any_kind_are_refused_by_a_reason(octets: bytes) -> None:
    assert reason(octets) in REASONS
    assert reason(sign_raw(segment(HEADER), segment(octets) or b"AA")) in REASONS


# keys


async def test_a_token_of_a_new_key_is_accepted_after_one_renewal() -> None:
    keys = FixedKeys(key_set(jwk("RSA", kid="RSA")), renewed=KEYS)
    verifier = TokenVerifier(settings(), keys, lambda: NOW)
    token = Secret(sign())
    assert verifier.ready(token) is None
    assert (await verifier.obtain(token)).subject == "alice"
    assert keys.renewals == 1
    assert verifier.ready(token) is not None


async def test_without_keys_nothing_is_verified_and_a_bad_token_does_not_ask_for_them() -> None:
    verifier = TokenVerifier(settings(), FixedKeys(None), lambda: NOW)
    assert verifier.ready(Secret(sign())) is None
    with pytest.raises(KeysUnavailable):
        await verifier.obtain(Secret(sign()))
    with pytest.raises(NotVerified):
        verifier.ready(Secret(b"x"))


@pytest.mark.parametrize("changes", [{"algorithms": {"HS256"}}, {"algorithms": {"none"}}, {"algorithms": set()}, {"audiences": ()}])
def test_trust_that_would_be_no_trust_cannot_be_configured(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="must"):
        settings(**changes)


@pytest.mark.parametrize("jwks", [{}, {"url": "https://x", "file": "/x"}])
def test_keys_come_from_exactly_one_place(jwks: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="exactly one"):
        JwksSettings(**jwks)

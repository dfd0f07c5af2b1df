"""Every check of a token's text: what passes, what is refused, with which code and reason, in which order."""

import base64
import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from robin.model.faults import FAULTS, FaultSource
from robin.model.identity import IdentityToken
from robin.model.secret import Secret
from robin.testing.tokens import encode_segment, make_token
from robin.wire.jwt_inspection import (
    SVID_ALGORITHMS,
    SVID_TYPES,
    TOKEN_LIMIT_BYTES,
    TokenRefused,
    TokenRules,
    fingerprint,
    inspect_token,
    parse_unverified,
    same_token,
)

NOW = 1_780_000_000.0
ANY = TokenRules()
SVID = TokenRules(audience="broker.example", algorithms=SVID_ALGORITHMS, types=SVID_TYPES)


def inspect(text: bytes, rules: TokenRules = ANY, **more: Any) -> IdentityToken:
    return inspect_token(Secret(text), rules, now=NOW, **more)


def refusal(text: bytes, rules: TokenRules = ANY, **more: Any) -> tuple[str, str]:
    with pytest.raises(TokenRefused) as refused:
        inspect(text, rules, **more)
    return refused.value.code, refused.value.reason


def token(**more: Any) -> bytes:
    return make_token(**{"expires_at": NOW + 600, **more})


def jwt(header: bytes, claims: bytes, signature: bytes = b"s" * 64) -> bytes:
    return b".".join(map(encode_segment, (header, claims, signature)))


HEADER = b'{"alg":"ES256"}'
CLAIMS = b'{"exp":%d}' % (NOW + 600)


def test_a_whole_token_yields_its_claims() -> None:
    text = token(claims={"nbf": NOW - 5})
    found = inspect(text + b"\r\n \t\n")
    assert same_token(found, Secret(text))
    assert found.subject == "spiffe://example.org/app"
    assert found.audiences == ("broker.example",)
    assert (found.expires_at, found.not_before_at, found.seen_at) == (NOW + 600, NOW - 5, NOW)
    assert found.usable_until == NOW + 595


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"", ("identity_unavailable", "empty")),
        (b" \r\n\t", ("identity_unavailable", "empty")),
        (b"\xef\xbb\xbf" + token(), ("identity_malformed", "bom")),
        (b"\xff\xfea", ("identity_malformed", "bom")),
        (b" " + token(), ("identity_malformed", "not_b64token")),
        (b"\n" + token(), ("identity_malformed", "not_b64token")),
        (token()[:40] + b"\n" + token()[40:], ("identity_malformed", "not_b64token")),
        (token() + b" " + token(), ("identity_malformed", "not_b64token")),
        (token() + b"\x0b", ("identity_malformed", "not_b64token")),
        (token() + b"\xa0", ("identity_malformed", "not_b64token")),
        (token() + b"\0", ("identity_malformed", "not_b64token")),
        (b"=", ("identity_malformed", "not_b64token")),
        (b"a" * (TOKEN_LIMIT_BYTES + 1), ("identity_malformed", "too_large")),
        (b"a", ("identity_malformed", "not_jwt")),
        (b"a.b", ("identity_malformed", "not_jwt")),
        (b"..", ("identity_malformed", "not_jwt")),
        (token() + b".x", ("identity_malformed", "not_jwt")),
        (token() + b"=", ("identity_malformed", "not_jwt")),
        (token().replace(b".", b"~", 1), ("identity_malformed", "not_jwt")),
    ],
)
def test_text_that_is_no_token_is_refused(text: bytes, expected: tuple[str, str]) -> None:
    assert refusal(text) == expected


def test_the_size_limit_is_of_the_trimmed_text() -> None:
    opaque = TokenRules(decoded=False)
    assert len(inspect(b"a" * TOKEN_LIMIT_BYTES + b"\n", opaque).value) == TOKEN_LIMIT_BYTES


@pytest.mark.parametrize(
    ("header", "claims", "reason"),
    [
        (b"[]", CLAIMS, "not_jwt"),
        (b'"alg"', CLAIMS, "not_jwt"),
        (HEADER, b"null", "not_jwt"),
        (HEADER, b"{", "not_jwt"),
        (HEADER, b"\xff\xfe{\x00}\x00", "not_jwt"),
        (HEADER, '{"exp":1}'.encode("utf-16"), "not_jwt"),
        (HEADER, b'{"exp":NaN}', "not_jwt"),
        (HEADER, b'{"exp":Infinity}', "not_jwt"),
        (HEADER, b'{"exp":' + b"9" * 5000 + b"}", "not_jwt"),
        (HEADER, b"[" * 8000, "not_jwt"),
        (HEADER, b'{"a":' * 1500, "not_jwt"),
        (b"{}", CLAIMS, "bad_alg"),
        (b'{"alg":""}', CLAIMS, "bad_alg"),
        (b'{"alg":"none"}', CLAIMS, "bad_alg"),
        (b'{"alg":"NoNe"}', CLAIMS, "bad_alg"),
        (b'{"alg":["ES256"]}', CLAIMS, "bad_alg"),
        (b'{"alg":256}', CLAIMS, "bad_alg"),
        (HEADER, b"{}", "bad_exp"),
        (HEADER, b'{"exp":"1780000600"}', "bad_exp"),
        (HEADER, b'{"exp":true}', "bad_exp"),
        (HEADER, b'{"exp":null}', "bad_exp"),
        (HEADER, b'{"exp":1e400}', "bad_exp"),
        (HEADER, b'{"exp":' + b"9" * 400 + b"}", "bad_exp"),
        (HEADER, b'{"exp":[1780000600]}', "bad_exp"),
        (HEADER, b'{"exp":1780000600,"nbf":"x"}', "bad_nbf"),
        (HEADER, b'{"exp":1780000600,"nbf":false}', "bad_nbf"),
    ],
)
def test_a_jwt_that_is_none_is_malformed(header: bytes, claims: bytes, reason: str) -> None:
    assert refusal(jwt(header, claims)) == ("identity_malformed", reason)


def test_a_segment_of_impossible_length_is_malformed() -> None:
    head, claims, _ = token().split(b".")
    assert refusal(b".".join((head, claims, b"abcde"))) == ("identity_malformed", "not_jwt")


@pytest.mark.parametrize(
    ("algorithm", "right", "wrong"),
    [
        ("ES256", [64], [0, 63, 65, 96]),
        ("ES384", [96], [64, 95]),
        ("ES512", [132], [131, 64]),
        ("EdDSA", [64, 114], [63, 65, 113]),
        ("RS256", [256, 384, 512], [255, 128]),
        ("RS384", [256], [255]),
        ("RS512", [512], [200]),
        ("PS256", [256], [255]),
        ("PS384", [384], [255]),
        ("PS512", [512], [255]),
        ("HS256", [32, 1], []),
    ],
)
def test_a_signature_must_have_the_length_of_its_algorithm(algorithm: str, right: list[int], wrong: list[int]) -> None:
    for size in right:
        assert inspect(token(algorithm=algorithm, signature_bytes=size)).expires_at == NOW + 600
    for size in wrong:
        reason = "not_jwt" if size == 0 else "bad_signature_length"
        assert refusal(token(algorithm=algorithm, signature_bytes=size)) == ("identity_malformed", reason)


def test_a_truncated_token_is_malformed_wherever_it_is_cut() -> None:
    text = token()
    for size in range(1, len(text)):
        code, _reason = refusal(text[:size])
        assert code == "identity_malformed"


def test_not_before_has_thirty_seconds_of_leeway() -> None:
    assert inspect(token(claims={"nbf": NOW + 30})).not_before_at == NOW + 30
    assert refusal(token(claims={"nbf": NOW + 30.5})) == ("identity_not_yet_valid", "not_yet_valid")


@pytest.mark.parametrize("audience", ["broker.example", ["other", "broker.example"], ["broker.example", 7, None]])
def test_an_audience_may_be_a_string_or_in_an_array(audience: Any) -> None:
    assert "broker.example" in inspect(token(audience=audience), TokenRules(audience="broker.example")).audiences


@pytest.mark.parametrize("audience", ["broker.example.org", "broker", ["x"], [], "", {"broker.example": 1}, 7, None, [["broker.example"]]])
def test_a_token_for_another_audience_is_a_mismatch(audience: Any) -> None:
    assert refusal(token(audience=audience), TokenRules(audience="broker.example")) == ("audience_mismatch", "bad_aud")
    assert inspect(token(audience=audience)).expires_at == NOW + 600


def test_a_token_is_usable_until_it_has_less_left_than_the_least_validity() -> None:
    assert refusal(token(expires_at=NOW)) == ("identity_expired", "expired")
    assert refusal(token(expires_at=NOW - 3600)) == ("identity_expired", "expired")
    assert refusal(token(expires_at=NOW + 5), seen_at=NOW - 100) == ("identity_expired", "expired")
    assert inspect(token(expires_at=NOW + 5.5), seen_at=NOW - 100).usable_until == NOW + 0.5
    assert inspect(token(expires_at=NOW + 10)).usable_until == NOW + 9  # a tenth of ten seconds
    assert inspect(token(), TokenRules(min_validity_s=0)).usable_until == NOW + 600


def test_checks_come_in_the_order_of_the_spec() -> None:
    late = {"nbf": NOW + 99}
    rules = TokenRules(audience="x")
    assert refusal(token(expires_at=NOW - 1, claims=late), rules)[0] == "identity_not_yet_valid"
    assert refusal(token(expires_at=NOW - 1), rules)[0] == "audience_mismatch"
    assert refusal(token(expires_at=NOW - 1, signature_bytes=63, claims=late), rules)[0] == "identity_malformed"


@pytest.mark.parametrize("algorithm", sorted(SVID_ALGORITHMS))
def test_a_jwt_svid_may_use_nine_algorithms(algorithm: str) -> None:
    assert inspect(token(algorithm=algorithm), SVID, issued_to="spiffe://example.org/app").audiences == ("broker.example",)


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({"algorithm": "EdDSA"}, "bad_alg"),
        ({"algorithm": "HS256"}, "bad_alg"),
        ({"algorithm": "es256", "signature_bytes": 64}, "bad_alg"),
        ({"header": {"typ": "jwt"}}, "bad_typ"),
        ({"header": {"typ": "at+jwt"}}, "bad_typ"),
        ({"header": {"typ": None}}, "bad_typ"),
        ({"subject": "spiffe://example.org/other"}, "bad_sub"),
        ({"claims": {"sub": None}}, "bad_sub"),
        ({"claims": {"sub": ["spiffe://example.org/app"]}}, "bad_sub"),
    ],
)
def test_a_jwt_svid_against_its_specification_is_malformed(more: dict[str, Any], reason: str) -> None:
    assert refusal(token(**more), SVID, issued_to="spiffe://example.org/app") == ("identity_malformed", reason)


@pytest.mark.parametrize("kind", ["JWT", "JOSE"])
def test_a_jwt_svid_may_say_its_type(kind: str) -> None:
    assert inspect(token(header={"typ": kind}), SVID).expires_at == NOW + 600


def test_a_jwt_svid_may_leave_its_type_out() -> None:
    claims = json.dumps({"exp": NOW + 60, "aud": "broker.example"}).encode()
    assert inspect(jwt(HEADER, claims), SVID).expires_at == NOW + 60


def test_an_opaque_token_is_not_decoded() -> None:
    found = inspect(b"s.AbC-123~+/==\n", TokenRules(decoded=False))
    assert (found.subject, found.audiences, found.expires_at, found.usable_until) == (None, (), None, math.inf)
    assert inspect(token(expires_at=NOW - 9), TokenRules(decoded=False)).expires_at is None
    assert refusal(b"a b", TokenRules(decoded=False)) == ("identity_malformed", "not_b64token")


def test_a_subject_that_is_no_text_is_no_subject() -> None:
    assert inspect(token(claims={"sub": 7})).subject is None


def test_unverified_shows_claims_and_goes_on_past_what_is_wrong_with_them() -> None:
    found = parse_unverified(Secret(token(expires_at=NOW - 60, audience="x")), TokenRules(audience="broker.example"), now=NOW)
    assert found.header == {"alg": "ES256", "typ": "JWT"}
    assert found.claims is not None
    assert found.claims["aud"] == "x"
    failed = {check.name: (check.code, check.reason) for check in found.checks if not check.passed}
    assert failed == {"audience": ("audience_mismatch", "bad_aud"), "expiry": ("identity_expired", "expired")}
    assert all(check.fix for check in found.checks if not check.passed)
    assert [check.name for check in found.checks if check.passed] == [
        "text",
        "form",
        "algorithm",
        "dates",
        "signature length",
        "subject",
        "not before",
    ]


def test_unverified_stops_where_nothing_is_left_to_check() -> None:
    found = parse_unverified(Secret(b"abc"), ANY, now=NOW)
    assert (found.header, found.claims) == (None, None)
    assert [(check.name, check.passed) for check in found.checks] == [("text", True), ("form", False)]


def test_unverified_never_holds_the_signature() -> None:
    text = token()
    shown = repr(parse_unverified(Secret(text), ANY, now=NOW))
    assert text.split(b".")[2].decode() not in shown
    assert text.decode() not in shown


def test_a_fingerprint_tells_tokens_apart() -> None:
    one, other = token(), token()
    assert fingerprint(Secret(one)) == fingerprint(Secret(one))
    assert fingerprint(Secret(one)) != fingerprint(Secret(other))


MUTATIONS = st.lists(
    st.tuples(st.sampled_from(["flip", "drop", "insert", "repeat"]), st.integers(0, 1 << 30), st.integers(0, 255)), max_size=6
)


@given(MUTATIONS, st.binary(max_size=64))
def test_no_mutation_of_a_token_escapes_the_refusal(mutations: list[tuple[str, int, int]], tail: bytes) -> None:
    text = bytearray(make_token(expires_at=NOW + 600))
    for kind, place, byte in mutations:
        at = place % max(1, len(text))
        if kind == "flip" and text:
            text[at] ^= byte
        elif kind == "drop":
            del text[at : at + 1 + byte % 8]
        elif kind == "insert":
            text[at:at] = bytes([byte])
        else:
            text += text[at : at + byte]
    judge(bytes(text) + tail)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
def test_no_json_value_in_a_claim_escapes_the_refusal(value: Any) -> None:
    for claim in ("exp", "nbf", "aud", "sub"):
        text = json.dumps({"exp": NOW + 600, claim: value}).encode()
        judge(jwt(HEADER, text))
        judge(jwt(json.dumps({"alg": value, "typ": value}).encode(), text))


def judge(text: bytes) -> None:
    """A verdict and nothing else: a token that is whole and current, or a TokenRefused of the identity, which quotes nothing."""
    outcome: IdentityToken | TokenRefused
    try:
        outcome = inspect_token(Secret(text), SVID, now=NOW, issued_to="spiffe://example.org/app")
    except TokenRefused as refused:
        outcome = refused
    if isinstance(outcome, TokenRefused):
        assert FAULTS[outcome.code].source is FaultSource.IDENTITY
        segments = [part for part in text.split(b".") if len(part) > 16]
        assert not any(part.decode("latin-1") in outcome.detail for part in segments)
    else:
        assert outcome.expires_at is not None
        assert outcome.usable_until > NOW
        assert base64.urlsafe_b64decode(text.rstrip().split(b".")[1] + b"===")


def test_the_state_of_the_checks_shows_no_token_where_a_traceback_shows_its_locals() -> None:
    token = make_token(expires_at=NOW - 1)
    with pytest.raises(TokenRefused) as raised:
        inspect_token(Secret(token), ANY, now=NOW)
    shown = [repr(entry.frame.f_locals.get("reading")) for entry in raised.traceback]
    assert any("TokenRules" in text for text in shown)
    assert not any(token.decode() in text for text in shown)

"""Invariant: any bytes as a token are an IdentityToken that is usable now, or a TokenRefused whose words hold none of those bytes."""

# ruff: noqa: PT017 - a table of words; a check asserts on what was raised, outside of pytest too

import base64
import json
import re
from typing import Any

from robin.model.secret import Secret
from robin.wire.jwt_inspection import SVID_ALGORITHMS, SVID_TYPES, TokenRefused, TokenRules, inspect_token, parse_unverified

NOW = 1_800_000_000.0
CODES = {"identity_unavailable", "identity_malformed", "identity_expired", "identity_not_yet_valid", "audience_mismatch"}
RULES = (
    TokenRules(),
    TokenRules(decoded=False),
    TokenRules(audience="broker", algorithms=SVID_ALGORITHMS, types=SVID_TYPES),
)


def _segment(value: Any) -> bytes:
    return base64.urlsafe_b64encode(value if isinstance(value, bytes) else json.dumps(value).encode()).rstrip(b"=")


def _jwt(header: Any, claims: Any, signature: int = 64) -> bytes:
    return b".".join((_segment(header), _segment(claims), _segment(b"\x5a" * signature)))


_GOOD = {"sub": "spiffe://a/b", "aud": ["broker"], "exp": NOW + 3600, "nbf": NOW - 10}
SEEDS = (
    _jwt({"alg": "ES256", "typ": "JWT"}, _GOOD),
    _jwt({"alg": "RS256"}, _GOOD, 256) + b"\r\n",
    _jwt({"alg": "EdDSA"}, _GOOD | {"aud": "broker"}, 114),
    _jwt({"alg": "none"}, _GOOD, 1),
    _jwt({"alg": "ES256"}, _GOOD | {"exp": NOW - 1}),
    _jwt({"alg": "ES256"}, _GOOD | {"exp": "soon"}),
    _jwt({"alg": "ES256"}, _GOOD | {"exp": 1e308, "nbf": -1e308}),
    _jwt({"alg": "ES256"}, _GOOD | {"nbf": NOW + 100}),
    _jwt({"alg": "ES256"}, _GOOD | {"aud": [1, None, "broker"]}),
    _jwt({"alg": "ES256"}, [1, 2, 3]),
    _jwt({"alg": "ES256"}, b'{"exp": NaN, "exp": Infinity, "exp": 1e999}'),
    _jwt({"alg": "ES256"}, b'{"a":' * 1000),
    _jwt({"alg": "ES256"}, b"[" * 5000),
    _jwt({"alg": "ES256"}, b'{"exp": ' + b"9" * 5000 + b"}"),
    _jwt(b"\xff\xfe", b"\x00"),
    b"opaque-token_without~dots+/==",
    b"\xef\xbb\xbfeyJhbGciOiJFUzI1NiJ9.e30.x",
    b"a b",
    b"...",
)
WORDS = (b".", b"=", b"==", b"\n", b" ", b"\x00", b"e30", b"eyJhbGciOiJFUzI1NiJ9", b"bnVsbA", b"W10", b"_", b"-", b"+", b"/", b"A" * 300)


def check(data: bytes) -> None:
    """Raise when the invariant does not hold for `data`."""
    for rules in RULES:
        try:
            token = inspect_token(Secret(data), rules, now=NOW)
        except TokenRefused as refused:
            assert refused.code in CODES, refused.code
            assert refused.detail.isascii()
            _check_silent(data, refused.detail + str(refused) + repr(refused))
        else:
            assert re.fullmatch(rb"[A-Za-z0-9._~+/-]+=*", token.value.reveal())
            assert data.startswith(token.value.reveal())
            assert token.usable_until > NOW
            if rules.decoded:
                assert token.expires_at is not None
                assert token.usable_until <= token.expires_at
            if rules.audience:
                assert rules.audience in token.audiences
        shown = parse_unverified(Secret(data), rules, now=NOW)
        assert shown.checks
        _check_silent(data, "".join(check.text + check.reason + check.fix for check in shown.checks))


def _check_silent(data: bytes, words: str) -> None:
    """No run of 24 bytes of the token is in our words."""
    text = words.encode()
    assert not any(text[at : at + 24] in data for at in range(len(text) - 24)), words

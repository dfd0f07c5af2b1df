"""Which keys of a JSON Web Key Set count, and which sets are refused whole."""

import json
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.identity.trust.parts import jwk, key_set, segment

from robin.identity.trust.keys import KeySetRefused, parse_key_set


@pytest.mark.parametrize("kind", ["RSA", "P-256", "P-384", "P-521", "Ed25519", "Ed448"])
def test_a_signature_key_of_each_kind_counts(kind: str) -> None:
    found = key_set(jwk(kind, kid="one", use="sig", key_ops=["verify"]))
    assert [key.kid for key in found.keys] == ["one"]
    assert found.ignored == 0


BAD: list[Any] = [
    {"kty": "oct", "k": "c2VjcmV0", "kid": "x", "alg": "HS256"},
    jwk("P-256", use="enc"),
    jwk("P-256", use=["sig"]),
    jwk("P-256", key_ops=["encrypt"]),
    jwk("P-256", key_ops="verify"),
    jwk("P-256", kid=1),
    jwk("P-256", kid="k" * 513),
    jwk("P-256", alg=5),
    jwk("P-256", crv="P-384"),
    jwk("P-256", crv="P-224"),
    jwk("P-256", x=segment(bytes(32)).decode()),
    jwk("P-256", x=None),
    jwk("P-256", y=7),
    jwk("P-256", kty="RSA"),
    jwk("secp256k1"),
    jwk("RSA1024"),
    jwk("RSA", n=segment(b"\xff" * 2048).decode()),
    jwk("RSA", n="!" * 342),
    jwk("RSA", n="\u00e9" * 342),
    jwk("RSA", n="A" * 200_000),
    jwk("RSA", e="AQ"),
    jwk("RSA", e="AA"),
    jwk("RSA", e=segment(b"\xff" * 200).decode()),
    jwk("RSA", n=[1]),
    jwk("Ed25519", x="AAAA"),
    jwk("Ed25519", crv="X25519"),
    {"kty": ["RSA"]},
    {},
    [],
    None,
    "key",
]


@pytest.mark.parametrize("bad", BAD, ids=range(len(BAD)))
def test_a_key_that_may_not_verify_is_ignored_beside_a_good_one(bad: Any) -> None:
    found = key_set(bad, jwk("P-256", kid="good"))
    assert ([key.kid for key in found.keys], found.ignored) == (["good"], 1)
    with pytest.raises(KeySetRefused, match="no_usable_key"):
        key_set(bad)


def test_private_members_are_not_imported() -> None:
    (key,) = key_set(jwk("P-256", d=segment(b"\x01" * 32).decode())).keys
    assert not key.imported.is_private


def test_of_two_keys_with_one_name_and_kind_the_first_counts_and_another_kind_stands_beside_it() -> None:
    found = key_set(jwk("P-256", kid="a"), jwk("P-256/2", kid="a"), jwk("RSA", kid="a"), jwk("P-384"), jwk("P-384/2"))
    assert [(key.kid, key.curve or key.kind) for key in found.keys] == [("a", "P-256"), ("a", "RSA"), (None, "P-384"), (None, "P-384")]
    assert (len(found.find("a")), found.find(None), found.find("b")) == (2, (), ())


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"", "not_json"),
        (b"[]", "not_json"),
        (b'{"keys":[],"keys":[]}', "not_json"),
        (b'{"keys":' + b"[" * 5000, "not_json"),
        (b"<html>", "not_json"),
        (b"{}", "no_keys"),
        (b'{"keys":{}}', "no_keys"),
        (b'{"keys":[]}', "no_usable_key"),
        (json.dumps({"keys": [jwk("P-256", kid=str(number)) for number in range(101)]}).encode(), "too_many_keys"),
        (json.dumps({"keys": [jwk("P-256")], "x": "y" * 262144}).encode(), "too_large"),
    ],
)
def test_a_set_that_cannot_be_used_is_refused_by_reason(text: bytes, reason: str) -> None:
    with pytest.raises(KeySetRefused) as raised:
        parse_key_set(text)
    assert raised.value.reason == reason


def test_a_hundred_keys_are_a_set() -> None:
    assert len(key_set(*(jwk("P-256", kid=str(number)) for number in range(100))).keys) == 100


VALUES = st.none() | st.booleans() | st.integers() | st.text(max_size=40) | st.lists(st.text(max_size=5), max_size=2)
MEMBERS = st.sampled_from(["kty", "crv", "x", "y", "n", "e", "kid", "alg", "use", "key_ops"])


@given(st.dictionaries(MEMBERS, VALUES), st.sampled_from(["RSA", "P-256", "Ed25519"]))
def test_no_key_makes_the_parser_fail(changes: dict[str, Any], kind: str) -> None:
    assert len(key_set(jwk(kind) | changes, jwk("P-384", kid="good")).keys) in {1, 2}


def test_the_library_is_loaded_with_the_first_key_set_and_not_before() -> None:
    script = "import sys, robin.identity.trust.verify, robin.app; print('joserfc' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    assert found.stdout.strip() == "False"

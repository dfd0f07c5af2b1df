"""Made tokens pass Robin's checks, and differ."""

from robin.model.secret import Secret
from robin.testing.tokens import encode_segment, make_token
from robin.wire.jwt_inspection import TokenRules, inspect_token


def test_a_made_token_passes_the_checks_and_carries_its_claims() -> None:
    for algorithm in ("ES256", "ES384", "ES512", "EdDSA", "RS256", "PS512"):
        text = make_token(expires_at=1_780_000_600, audience=["a", "b"], subject="s", algorithm=algorithm, claims={"nbf": 5})
        found = inspect_token(Secret(text), TokenRules(audience="b"), now=1_780_000_000)
        assert (found.subject, found.audiences, found.not_before_at) == ("s", ("a", "b"), 5)


def test_no_two_tokens_are_alike() -> None:
    assert len({make_token(expires_at=1) for _ in range(100)}) == 100


def test_segments_have_no_padding() -> None:
    assert encode_segment(b"a") == b"YQ"

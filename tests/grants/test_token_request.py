"""Calls to token endpoints: the exact form of each kind, what is accepted of a response, how long a token is used (G20, G21, G36)."""

import json
from dataclasses import replace
from typing import Any

import pytest

from robin.grants.catalog import GRANTS
from robin.grants.grant import Flow, GivenToken, GrantFailure, Inputs, IssuedCredential
from robin.grants.kinds.client_credentials import flow
from robin.grants.settings import IssuerSettings, TokenRequestSettings
from robin.identity.issuer import IssuerRequest, IssuerResponse
from robin.model.identity import IdentityToken
from robin.model.secret import Secret
from robin.testing.tokens import make_token
from robin.wire.jwt_inspection import TokenRules, fingerprint, inspect_token

NOW = 1_780_000_000.0
SETTINGS = TokenRequestSettings(token_endpoint="https://issuer.example/token", assertion_audience="https://issuer.example")
SPIFFE = "urn:ietf:params:oauth:client-assertion-type:jwt-spiffe"


def identity(audience: str | list[str] = "https://issuer.example", left_s: float = 300.0) -> IdentityToken:
    token = make_token(expires_at=NOW + left_s, audience=audience)
    return inspect_token(Secret(token), TokenRules(min_validity_s=0), now=NOW)


def begin(settings: TokenRequestSettings = SETTINGS, token: IdentityToken | None = None) -> tuple[Flow, IssuerRequest]:
    running = flow(settings, Inputs(identity=token or identity()), NOW)
    return running, next(running)


def finish(octets: bytes, settings: TokenRequestSettings = SETTINGS, *, media: str = "application/json") -> IssuedCredential:
    running, _ = begin(settings)
    with pytest.raises(StopIteration) as done:
        running.send(IssuerResponse(status=200, fields={"content-type": media}, body=Secret(octets)))
    issued: IssuedCredential = done.value.value
    return issued


def body(**members: object) -> bytes:
    return json.dumps({"access_token": "abc", "token_type": "Bearer"} | members).encode()


def form(settings: TokenRequestSettings) -> str:
    """The form with the assertion in short. Only a digest of it can be compared in the open, as tests open no secret."""
    token = identity()
    _, request = begin(settings, token)
    assert request.body is not None
    assertion = token.value.reveal().decode()
    return request.body.reveal().decode().replace(assertion, "J")


def test_g20_the_form_is_exact_and_only_the_type_differs_between_jwt_bearer_and_jwt_spiffe() -> None:
    full = replace(
        SETTINGS, audience="a b", resources=("https://r.example/x?y", "urn:r"), scopes=("one", "two/three"), extra=(("ext", "é"),)
    )
    bearer = "urn%3Aietf%3Aparams%3Aoauth%3Aclient-assertion-type%3Ajwt-bearer"
    expected = (
        f"grant_type=client_credentials&client_assertion_type={bearer}&client_assertion=J&audience=a%20b"
        "&resource=https%3A%2F%2Fr.example%2Fx%3Fy&resource=urn%3Ar&scope=one%20two%2Fthree&ext=%C3%A9"
    )
    assert form(full) == expected
    assert form(replace(full, assertion_type=SPIFFE)) == expected.replace("jwt-bearer", "jwt-spiffe")
    least = f"grant_type=client_credentials&client_assertion_type={bearer}&client_assertion=J"
    assert form(SETTINGS) == least
    assert form(replace(SETTINGS, client_id="c~1")) == f"{least}&client_id=c~1"
    assert form(replace(SETTINGS, client_auth="none", client_id="c")) == "grant_type=client_credentials&client_id=c"


TOKENS: dict[str, Any] = {"subject": GivenToken(value=Secret(b"S.1")), "actor": GivenToken(value=Secret(b"A+1"))}
_CA = "&client_assertion_type=urn%3Aietf%3Aparams%3Aoauth%3Aclient-assertion-type%3Ajwt-bearer&client_assertion=J"
_R = "&audience=a%20b&resource=urn%3A1&resource=urn%3A2&scope=x%20y&ext=1"


@pytest.mark.parametrize(
    ("kind", "changes", "expected"),
    [
        ("jwt_bearer", {"client_auth": "none"}, "grant_type=GT%3Ajwt-bearer&assertion=J" + _R),
        ("jwt_bearer", {"client_id": "c"}, f"grant_type=GT%3Ajwt-bearer&assertion=J{_CA}&client_id=c{_R}"),
        ("jwt_bearer", {"subject": "given"}, f"grant_type=GT%3Ajwt-bearer&assertion=S.1{_CA}{_R}"),
        (
            "token_exchange",
            {"subject_type": "urn:s", "requested_type": "urn:r"},
            f"grant_type=GT%3Atoken-exchange{_CA}&subject_token=J&subject_token_type=urn%3As&requested_token_type=urn%3Ar{_R}",
        ),
        (
            "token_exchange",
            {"subject": "given", "subject_type": "s", "requested_type": "r", "actor": "given", "actor_type": "a", "client_auth": "none"},
            "grant_type=GT%3Atoken-exchange&subject_token=S.1&subject_token_type=s&actor_token=A%2B1&actor_token_type=a"
            f"&requested_token_type=r{_R}",
        ),
    ],
)
def test_g21_the_forms_of_jwt_bearer_and_token_exchange_are_exact(kind: str, changes: dict[str, Any], expected: str) -> None:
    asked = {"audience": "a b", "resources": ("urn:1", "urn:2"), "scopes": ("x", "y"), "extra": (("ext", "1"),), **changes}
    settings = replace(SETTINGS, kind=kind, **asked)
    token = identity()
    request = next(GRANTS[kind].flow(settings, Inputs(identity=token, **TOKENS), NOW))
    assert request.body is not None
    found = request.body.reveal().decode().replace(token.value.reveal().decode(), "J")
    assert found == expected.replace("GT", "urn%3Aietf%3Aparams%3Aoauth%3Agrant-type")


def test_an_identity_token_of_an_algorithm_that_the_issuer_refuses_is_not_sent() -> None:
    with pytest.raises(GrantFailure) as raised:
        begin(replace(SETTINGS, algorithms=frozenset({"PS256", "RS256"})), replace(identity(), algorithm="ES256"))
    assert (raised.value.code, raised.value.detail) == ("assertion_unsuitable", "alg ES256: the issuer accepts PS256 RS256")


def test_the_request_is_a_post_of_a_form_that_asks_for_plain_json() -> None:
    _, request = begin()
    assert (request.method, request.url, request.limit_bytes) == ("POST", "https://issuer.example/token", 65536)
    assert [name for name, _ in request.fields] == ["Content-Type", "Accept", "User-Agent"]
    assert fingerprint(request.fields[0][1]) == fingerprint(Secret(b"application/x-www-form-urlencoded"))


@pytest.mark.parametrize(
    ("token", "word"),
    [
        (identity(["https://issuer.example", "other"]), "bad_aud"),
        (identity("https://issuer.example/"), "bad_aud"),
        (identity(left_s=5), "expired"),
    ],
)
def test_g33_an_identity_token_that_does_not_suit_the_issuer_is_not_sent(token: IdentityToken, word: str) -> None:
    with pytest.raises(GrantFailure) as raised:
        begin(token=token)
    assert (raised.value.code, raised.value.detail.partition(":")[0]) == ("assertion_unsuitable", word)


@pytest.mark.parametrize(
    ("octets", "reason"),
    [
        (body(token_type="N_A"), "token_type"),
        (body(token_type="mac"), "token_type"),
        (body(token_type="DPoP"), "token_type"),
        (body(token_type=None), "token_type"),
        (b'{"access_token":"a"}', "token_type"),
        (body(access_token="a\r\nb"), "access_token"),
        (body(access_token="a b"), "access_token"),
        (body(access_token=""), "access_token"),
        (body(access_token="a" * 16385), "access_token"),
        (body(access_token=None), "access_token"),
        (body(issued_token_type="urn:ietf:params:oauth:token-type:saml2"), "issued_token_type"),
        (body(expires_in=True), "expires_in"),
        (body(expires_in="x"), "expires_in"),
        (body(expires_in=[]), "expires_in"),
        (body(expires_in=None), "expires_in"),
        (body(expires_in=1.5), "expires_in"),
        (b"[]", "json"),
        (b"\xff", "json"),
        (b"[" * 50000, "json"),
        (b'{"access_token":"a","token_type":"Bearer","expires_in":1e999}', "expires_in"),
        (b'{"access_token":"a","access_token":"b","token_type":"Bearer"}', "duplicate_member"),
    ],
)
def test_g36_a_token_response_that_is_not_acceptable_is_refused(octets: bytes, reason: str) -> None:
    running, _ = begin()
    with pytest.raises(GrantFailure) as raised:
        running.send(IssuerResponse(status=200, fields={"content-type": "application/json"}, body=Secret(octets)))
    assert (raised.value.code, raised.value.detail.partition(":")[0]) == ("issuer_answer_invalid", reason)
    assert raised.value.failure_class == "investigate"


@pytest.mark.parametrize(
    ("expires_in", "cap_s", "usable_s"),
    [
        *((300, None, 270), (10, None, 9), (7200, None, 3570), (None, None, 270), (300, 60, 60), (300, 600, 270), (300, 0, 0)),
        *(("300", None, 270), (300.0, None, 270), (0, None, 0), (-1, None, 0)),
    ],
)
def test_g37_the_usable_time(expires_in: object, cap_s: float | None, usable_s: float) -> None:
    settings = SETTINGS if cap_s is None else replace(SETTINGS, cap_s=float(cap_s))
    members = {} if expires_in is None else {"expires_in": expires_in}
    assert finish(body(**members), settings).usable_s == pytest.approx(usable_s, abs=0.1)


def test_g37_a_token_that_is_a_jwt_ends_before_its_own_exp() -> None:
    token = make_token(expires_at=NOW + 100).decode()
    assert finish(body(access_token=token, expires_in=3600)).usable_s == pytest.approx(90, abs=0.1)


def test_a_scope_or_audience_that_was_not_granted_is_refused_only_where_that_is_required() -> None:
    asked = replace(SETTINGS, scopes=("a", "b"), audience="x")
    finish(body(scope="a"), asked)
    finish(body(scope="b a c"), replace(asked, check_scope="require"))
    finish(body(), replace(asked, check_scope="require"))
    for strict in (replace(asked, check_scope="require"), replace(asked, check_audience="require")):
        running, _ = begin(strict)
        octets = body(scope="a", access_token=make_token(expires_at=NOW + 100, audience="y").decode())
        with pytest.raises(GrantFailure, match="not_granted"):
            running.send(IssuerResponse(status=200, fields={"content-type": "application/json"}, body=Secret(octets)))


@pytest.mark.parametrize(
    "one",
    [
        {"issuer": IssuerSettings(max_ttl_s=60)},
        {"audience": "x"},
        {"scopes": ("y",)},
        {"client_id": "c"},
        {"token_endpoint": "https://o/t"},
        {"extra": (("a", "b"),)},
    ],
)
def test_what_a_token_depends_on_is_in_its_key_and_the_order_of_scopes_is_not(one: dict[str, object]) -> None:
    assert replace(SETTINGS, **one).key("default") != SETTINGS.key("default")  # type: ignore[arg-type]
    assert SETTINGS.key("default") != SETTINGS.key("other")
    assert replace(SETTINGS, scopes=("a", "b")).key("i") == replace(SETTINGS, scopes=("b", "a")).key("i")
    assert replace(SETTINGS, scopes=("a b",)).key("i") != replace(SETTINGS, scopes=("a", "b")).key("i")


@pytest.mark.parametrize(
    ("scope", "kept"),
    [
        ("a xcanary-token-0123y b", "a b"),
        ('a \ud800 \u00e9 " \\ \0 b', "a b"),
        ("y" * 60_000, ""),
        ("z " * 30_000, "z"),
    ],
)
def test_of_the_scopes_of_an_issuer_only_those_are_kept_that_a_record_can_hold_and_show(scope: str, kept: str) -> None:
    assert finish(body(scope=scope, access_token="canary-token-0123")).scopes == frozenset(kept.split())

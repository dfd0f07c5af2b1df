"""The grants of the clouds: their exact forms, what is refused before a call, and how long what they return is used (G26, G29, G30)."""

import json
from collections.abc import Callable
from dataclasses import replace
from email.utils import formatdate
from typing import Any

import pytest
from tests.wire.test_sts import document, error

from robin.grants.cloud_settings import AwsSettings, AzureSettings, GcpSettings, is_of_vendor
from robin.grants.grant import Flow, GrantFailure, Inputs, IssuedCredential
from robin.grants.kinds import aws_web_identity, azure_federation, gcp_federation
from robin.identity.issuer import IssuerRequest, IssuerResponse
from robin.model.identity import IdentityToken
from robin.model.secret import Secret
from robin.testing.tokens import make_token
from robin.wire.jwt_inspection import TokenRules, fingerprint, inspect_token

NOW = 1_893_452_400  # an hour before the Expiration in tests/wire/test_sts.py
PROVIDER = "projects/1/locations/global/workloadIdentityPools/pool/providers/spiffe"
ROLE = "arn:aws:iam::123456789012:role/demo"
AWS = AwsSettings(token_endpoint="https://sts.eu-west-1.amazonaws.com/", role_arn=ROLE)
GCP = GcpSettings(workload_provider=PROVIDER, assertion_audience=f"https://iam.googleapis.com/{PROVIDER}")
AZURE = AzureSettings(token_endpoint="https://login.microsoftonline.com/t/oauth2/v2.0/token", client_id="c", scope="api://x/.default")
START: dict[str, Callable[[IdentityToken], Flow]] = {
    "aws": lambda token: aws_web_identity.flow(AWS, Inputs(identity=token), NOW),
    "gcp": lambda token: gcp_federation.flow(GCP, Inputs(identity=token), NOW),
    "azure": lambda token: azure_federation.flow(AZURE, Inputs(identity=token), NOW),
}
AUDIENCES = {"aws": "sts.amazonaws.com", "gcp": GCP.assertion_audience, "azure": "api://AzureADTokenExchange"}


def identity(kind: str, *, claims: dict[str, Any] | None = None, **changes: Any) -> IdentityToken:
    first = {"audience": AUDIENCES[kind], "expires_at": NOW + 300, "subject": "spiffe://a/b/c", "algorithm": "RS256"}
    token = make_token(**(first | changes), claims={"iat": NOW} | (claims or {}))
    return inspect_token(Secret(token), TokenRules(min_validity_s=0), now=NOW)


def form(request: IssuerRequest, token: IdentityToken) -> str:
    """The body with the identity token in short."""
    assert request.body is not None
    return request.body.reveal().decode().replace(token.value.reveal().decode(), "J")


def reply(body: object, status: int = 200, *, media: str = "application/json", **fields: str) -> IssuerResponse:
    octets = body if isinstance(body, bytes) else json.dumps(body).encode()
    return IssuerResponse(status=status, fields={"content-type": media, **fields}, body=Secret(octets))


def finish(flow: Flow, response: IssuerResponse) -> IssuedCredential:
    with pytest.raises(StopIteration) as done:
        flow.send(response)
    issued: IssuedCredential = done.value.value
    return issued


def refused(flow: Flow, response: IssuerResponse) -> tuple[str, str, str]:
    """Code, class and reason word."""
    with pytest.raises(GrantFailure) as raised:
        flow.send(response)
    return raised.value.code, raised.value.failure_class.value, raised.value.detail.partition(":")[0]


def test_g26_the_form_for_sts_is_exact_and_carries_no_other_credential() -> None:
    token = identity("aws")
    full = replace(
        AWS, duration_s=900, policy='{"Version": "2012-10-17"}', policy_arns=("arn:aws:iam::aws:policy/A", "arn:aws:iam::aws:policy/B")
    )
    request = next(aws_web_identity.flow(full, Inputs(identity=token), NOW))
    assert (request.method, request.url) == ("POST", "https://sts.eu-west-1.amazonaws.com/")
    assert [name for name, _ in request.fields] == ["Content-Type", "Accept", "User-Agent"]
    assert fingerprint(request.fields[0][1]) == fingerprint(Secret(b"application/x-www-form-urlencoded; charset=utf-8"))
    assert form(request, token) == (
        "Action=AssumeRoleWithWebIdentity&Version=2011-06-15&RoleArn=arn%3Aaws%3Aiam%3A%3A123456789012%3Arole%2Fdemo"
        "&RoleSessionName=c-1b073803987eb684&WebIdentityToken=J&DurationSeconds=900&Policy=%7B%22Version%22%3A%20%222012-10-17%22%7D"
        "&PolicyArns.member.1.arn=arn%3Aaws%3Aiam%3A%3Aaws%3Apolicy%2FA&PolicyArns.member.2.arn=arn%3Aaws%3Aiam%3A%3Aaws%3Apolicy%2FB"
    )
    least = form(next(aws_web_identity.flow(replace(AWS, session_name="me"), Inputs(identity=token), NOW)), token)
    assert least.endswith("&RoleSessionName=me&WebIdentityToken=J&DurationSeconds=3600")


@pytest.mark.parametrize(
    ("subject", "name"),
    [
        ("spiffe://a/b/c", "c-"),
        ("system:serviceaccount:ns:sa", "system-serviceaccount-ns-sa-"),
        ("spiffe://a/é x", "---x-"),
        ("spiffe://a/" + "y" * 60, "y" * 47 + "-"),
        ("spiffe://a/b/", "-"),
        ("a/\ud800", "----"),
    ],
)
def test_g26_the_session_is_named_after_the_subject_and_two_subjects_never_share_a_name(subject: str, name: str) -> None:
    found = aws_web_identity.session_name(subject)
    assert found[:-16] == name
    assert found[-16:] != aws_web_identity.session_name(subject + "x")[-16:]
    assert 2 <= len(found) <= 64


@pytest.mark.parametrize(
    ("fields", "changes", "usable_s"),
    [
        ({}, {}, 3570),
        ({"date": formatdate(NOW + 1800, usegmt=True)}, {}, 1770),
        ({"date": formatdate(NOW - 1800, usegmt=True)}, {}, 3570),
        ({"date": formatdate(NOW + 3600, usegmt=True)}, {}, 0),
        ({"date": "x"}, {}, 3570),
        ({}, {"cap_s": 60.0}, 60),
    ],
    ids=["own clock", "its clock is ahead", "max_ttl", "over", "no date", "cap"],
)
def test_the_keys_live_until_their_expiration_by_the_clock_of_sts(fields: dict[str, str], changes: dict[str, Any], usable_s: float) -> None:
    flow = aws_web_identity.flow(replace(AWS, **changes), Inputs(identity=identity("aws")), NOW)
    next(flow)
    issued = finish(flow, reply(document(), media="text/xml", **fields))
    assert issued.usable_s == pytest.approx(usable_s, abs=0.1)
    assert (issued.request_id, issued.signing is not None, issued.token is not None) == ("c6104cbe-af31", True, True)


@pytest.mark.parametrize(
    ("response", "found"),
    [
        (reply(b"<!DOCTYPE a>" + document(), media="text/xml"), ("issuer_answer_invalid", "investigate", "document_type")),
        (reply(document(), media="application/json"), ("issuer_answer_invalid", "investigate", "media_type")),
        (reply(b"", 302), ("issuer_redirected", "fix_configuration", "status_302")),
        (reply(error("ExpiredTokenException").reveal(), 400), ("subject_refused", "reauthorize", "ExpiredTokenException")),
        (reply(error("IDPCommunicationError").reveal(), 400), ("issuer_unavailable", "retry", "IDPCommunicationError")),
        (reply(error("Throttling").reveal(), 400), ("issuer_rate_limited", "retry", "Throttling")),
        (reply(error("AccessDenied").reveal(), 403), ("grant_refused", "fix_configuration", "AccessDenied")),
        (reply(error("InvalidIdentityToken").reveal(), 400), ("grant_refused", "fix_configuration", "InvalidIdentityToken")),
        (reply(error("canary").reveal(), 400), ("grant_refused", "fix_configuration", "status_400")),
        (reply(error("ExpiredTokenException").reveal(), 503), ("issuer_unavailable", "retry", "ExpiredTokenException")),
        (reply(b"", 201), ("issuer_answer_invalid", "investigate", "status_201")),
    ],
)
def test_what_sts_refuses_has_a_class_and_shows_known_codes_only(response: IssuerResponse, found: tuple[str, str, str]) -> None:
    flow = START["aws"](identity("aws"))
    next(flow)
    assert refused(flow, response) == found


TT = "urn%3Aietf%3Aparams%3Aoauth%3Atoken-type%3A"
FIRST = (
    "grant_type=urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Atoken-exchange&audience=%2F%2Fiam.googleapis.com%2F"
    "projects%2F1%2Flocations%2Fglobal%2FworkloadIdentityPools%2Fpool%2Fproviders%2Fspiffe"
    f"&scope=SCOPE&requested_token_type={TT}access_token&subject_token=J&subject_token_type={TT}jwt"
)
CLOUD_PLATFORM = "https%3A%2F%2Fwww.googleapis.com%2Fauth%2Fcloud-platform"
FEDERATED = {"access_token": "federated", "token_type": "Bearer", "expires_in": 3600}


def test_g29_without_impersonation_google_is_asked_once() -> None:
    token = identity("gcp")
    flow = gcp_federation.flow(replace(GCP, scopes=("a", "b")), Inputs(identity=token), NOW)
    request = next(flow)
    assert (request.url, form(request, token)) == ("https://sts.googleapis.com/v1/token", FIRST.replace("SCOPE", "a%20b"))
    issued = finish(flow, reply({**FEDERATED, "scope": "a"}))
    assert (issued.usable_s, issued.warnings) == (3570, ("scope_not_granted",))
    assert form(next(gcp_federation.flow(GCP, Inputs(identity=token), NOW)), token) == FIRST.replace("SCOPE", CLOUD_PLATFORM)


def test_g29_with_impersonation_the_second_call_has_the_scopes_and_its_expire_time_bounds_the_token() -> None:
    token = identity("gcp")
    settings = replace(GCP, scopes=("a",), impersonate="sa@p.iam.gserviceaccount.com", delegates=("d@p.iam.gserviceaccount.com",))
    flow = gcp_federation.flow(settings, Inputs(identity=token), NOW)
    assert form(next(flow), token) == FIRST.replace("SCOPE", CLOUD_PLATFORM)
    second = flow.send(reply(FEDERATED))
    place = "https://iamcredentials.googleapis.com/v1/projects/-/serviceAccounts/sa@p.iam.gserviceaccount.com:generateAccessToken"
    assert (second.method, second.url) == ("POST", place)
    assert [name for name, _ in second.fields] == ["Authorization", "Content-Type", "Accept", "User-Agent"]
    assert fingerprint(second.fields[0][1]) == fingerprint(Secret(b"Bearer federated"))
    assert second.body is not None
    delegate = "projects/-/serviceAccounts/d@p.iam.gserviceaccount.com"
    assert fingerprint(second.body) == fingerprint(Secret(b'{"delegates":["%b"],"scope":["a"],"lifetime":"3600s"}' % delegate.encode()))
    issued = finish(
        flow, reply({"accessToken": "sa-token", "expireTime": "2030-01-01T00:00:00Z"}, date=formatdate(NOW + 3000, usegmt=True))
    )
    assert issued.usable_s == pytest.approx(570, abs=0.1)
    assert issued.token is not None
    assert fingerprint(issued.token) == fingerprint(Secret(b"sa-token"))


@pytest.mark.parametrize(
    ("response", "found"),
    [
        (reply({"error": {"code": 403, "status": "PERMISSION_DENIED"}}, 403), ("grant_refused", "fix_configuration", "status_403")),
        (reply({"accessToken": "x"}), ("issuer_answer_invalid", "investigate", "expire_time")),
        (reply({"accessToken": "x\r\ny", "expireTime": "2030-01-01T00:00:00Z"}), ("issuer_answer_invalid", "investigate", "access_token")),
        (reply(b"<html>", media="text/html"), ("issuer_answer_invalid", "investigate", "media_type")),
        (reply(b"", 429), ("issuer_rate_limited", "retry", "status_429")),
    ],
)
def test_g29_a_refused_impersonation_fails_the_grant(response: IssuerResponse, found: tuple[str, str, str]) -> None:
    flow = gcp_federation.flow(replace(GCP, impersonate="sa@p.iam.gserviceaccount.com"), Inputs(identity=identity("gcp")), NOW)
    next(flow)
    flow.send(reply(FEDERATED))
    assert refused(flow, response) == found


def test_g29_only_a_host_of_google_leads_on_to_googles_own_second_endpoint() -> None:
    settings = replace(GCP, impersonate="s@p.iam.gserviceaccount.com")
    regional = replace(settings, token_endpoint="https://sts.europe-west1.rep.googleapis.com/v1/token")
    own = replace(settings, token_endpoint="https://sts.example/v1/token")
    assert regional.impersonation_url.startswith("https://iamcredentials.googleapis.com/v1/")
    assert own.impersonation_url.startswith("https://sts.example/v1/projects/-/serviceAccounts/s@p")
    for url in (
        "https://evilgoogleapis.com/",
        "https://googleapis.com.evil/",
        "https://x.googleapis.com:1@evil/",
        "http://sts.googleapis.com/",
    ):
        assert not is_of_vendor("gcp_federation", url)


def test_g30_the_form_for_entra_is_exact() -> None:
    token = identity("azure")
    flow = START["azure"](token)
    request = next(flow)
    assert request.url == "https://login.microsoftonline.com/t/oauth2/v2.0/token"
    assert form(request, token) == (
        "grant_type=client_credentials&client_assertion_type=urn%3Aietf%3Aparams%3Aoauth%3Aclient-assertion-type%3Ajwt-bearer"
        "&client_assertion=J&client_id=c&scope=api%3A%2F%2Fx%2F.default"
    )
    assert finish(flow, reply({"access_token": "t", "token_type": "Bearer", "expires_in": 3599})).usable_s == 3569
    flow = START["azure"](token)
    next(flow)
    with pytest.raises(GrantFailure) as raised:
        flow.send(reply({"error": "invalid_client", "error_description": "canary", "correlation_id": "0-a"}, 401))
    assert (raised.value.code, raised.value.issuer_error, raised.value.request_id) == ("grant_refused", "invalid_client", "0-a")


@pytest.mark.parametrize(
    ("kind", "changes", "words"),
    [
        ("azure", {"algorithm": "ES256"}, "alg ES256; entra accepts RS256..PS512"),
        ("azure", {"audience": "api://azureadtokenexchange"}, "bad_aud: "),
        ("gcp", {"algorithm": "RS512"}, "alg RS512; google accepts RS256 and ES256"),
        ("gcp", {"claims": {"iat": None}}, "no_iat: "),
        ("aws", {"claims": {"sub": None}}, "no_sub: "),
        ("gcp", {"expires_at": NOW + 48 * 3600}, "too_long: "),
        ("gcp", {"audience": [AUDIENCES["gcp"], "b"]}, "bad_aud: the identity token has 2 audiences"),
        ("aws", {"algorithm": "PS256"}, "alg PS256; aws accepts RS256..ES512"),
        ("aws", {"expires_at": NOW + 300.5}, "bad_dates: "),
        ("aws", {"expires_at": NOW + 5}, "expired: "),
        ("aws", {"audience": "sts.amazonaws.com.cn"}, "bad_aud: "),
    ],
)
def test_g30_an_identity_token_that_a_cloud_is_known_to_refuse_is_not_sent(kind: str, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(GrantFailure) as raised:
        next(START[kind](identity(kind, **changes)))
    assert raised.value.code == "assertion_unsuitable"
    assert raised.value.detail.startswith(words)


@pytest.mark.parametrize(
    ("settings", "changes"),
    [
        (AWS, {"role_arn": "x"}),
        (AWS, {"session_name": "x"}),
        (AWS, {"duration_s": 900}),
        (AWS, {"policy": "x"}),
        (AWS, {"policy_arns": ("x",)}),
        (AWS, {"token_endpoint": "x"}),
        (GCP, {"workload_provider": "x"}),
        (GCP, {"impersonate": "x"}),
        (GCP, {"impersonate_lifetime_s": 60}),
        (GCP, {"delegates": ("x",)}),
        (GCP, {"scopes": ("x",)}),
        (AZURE, {"client_id": "x"}),
        (AZURE, {"scope": "x"}),
        (AZURE, {"token_endpoint": "x"}),
    ],
)
def test_what_a_credential_depends_on_is_in_its_key(settings: Any, changes: dict[str, Any]) -> None:
    assert replace(settings, **changes).key("default") != settings.key("default")
    assert settings.key("default") != settings.key("other")

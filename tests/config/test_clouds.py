"""The grants of the clouds in profiles: presets with only their required keys, forms of keys, and how endpoints are signed (G32)."""

from pathlib import Path

import pytest
from tests.config.test_profile import codes, load, profile

from robin.cli.explain_grant import explain_plan
from robin.config.profile import read_profile
from robin.config.providers import pin_of
from robin.grants.settings import GrantPlan
from robin.planes.gateway.settings import ProviderSettings

ROLE = "'arn:aws:iam::123456789012:role/r'"
WIP = "projects/1/locations/global/workloadIdentityPools/pool/providers/spiffe"
AWS = f"preset: aws, role_arn: {ROLE}, region: eu-west-1"
GOOGLE = f"preset: google, workload_provider: {WIP}"
ENTRA = "preset: entra, tenant: t.example, client_id: c, scopes: [api://x/.default]"
S3 = "[{host: b.s3.eu-west-1.amazonaws.com, signing_service: s3}]"
ANY = "[{host: api.example.com}]"


def read(folder: Path, grant: str, endpoints: str = "", credential: str = "") -> tuple[ProviderSettings, list[str], list[str]]:
    """What it comes to, its errors and its warnings."""
    places = endpoints or (S3 if "aws" in grant else ANY)
    settings, found = load(folder, profile(grant=f"{{{grant}}}", endpoints=places, credential=credential))
    return settings, codes(found), codes(found, "warning")


def plan_of(settings: ProviderSettings) -> GrantPlan:
    (plan,) = settings.grants.values()
    return plan


@pytest.mark.parametrize(
    ("grant", "kind", "endpoint", "audience"),
    [
        (AWS, "aws_web_identity", "https://sts.eu-west-1.amazonaws.com/", "sts.amazonaws.com"),
        (AWS.replace("eu-west-1", "cn-north-1"), "aws_web_identity", "https://sts.cn-north-1.amazonaws.com.cn/", "sts.amazonaws.com"),
        (GOOGLE, "gcp_federation", "https://sts.googleapis.com/v1/token", f"https://iam.googleapis.com/{WIP}"),
        (ENTRA, "azure_federation", "https://login.microsoftonline.com/t.example/oauth2/v2.0/token", "api://AzureADTokenExchange"),
        (
            f"{ENTRA}, authority_host: 'https://login.microsoftonline.us/'",
            "azure_federation",
            "https://login.microsoftonline.us/t.example/oauth2/v2.0/token",
            "api://AzureADTokenExchange",
        ),
    ],
)
def test_g32_a_preset_with_its_required_keys_has_endpoint_audience_and_kind(
    tmp_path: Path, grant: str, kind: str, endpoint: str, audience: str
) -> None:
    for text in (grant, f"grant_type: {kind}, {grant.partition(', ')[2]}"):  # the kind of a cloud has its preset, named or not
        settings, errors, warnings = read(tmp_path, text)
        plan = plan_of(settings)
        assert plan.settings is not None
        assert (plan.kind, plan.settings.token_endpoint, plan.audience) == (kind, endpoint, audience)
        assert (errors, warnings) == ([], [])
        shown = explain_plan(plan)
        form = dict(shown["form"])  # type: ignore[call-overload]
        assert (shown["token_endpoint"], shown["identity_audience"]) == (endpoint, audience)
        assert "<identity token>" in form.values()
        assert form.get("RoleSessionName", "<made of the subject>") == "<made of the subject>"


@pytest.mark.parametrize(
    ("grant", "errors"),
    [
        (f"preset: aws, role_arn: {ROLE}", ["value_invalid"]),
        ("preset: aws, region: eu-west-1", ["value_invalid"]),
        ("preset: google", ["value_invalid"]),
        ("preset: entra, tenant: t", ["value_invalid", "value_invalid"]),
        (f"{AWS}, grant_type: forward, audience: a", ["value_invalid", "value_invalid", "preset_mismatch", "signing_kind_mismatch"]),
        (AWS.replace(ROLE, "x"), ["role_arn_invalid"]),
        (AWS.replace(ROLE, "'arn:aws:iam::123456789012:user/role'"), ["role_arn_invalid"]),
        (AWS.replace("eu-west-1", "'evil.example/'"), ["value_invalid"]),
        (f"{AWS}, duration_seconds: 899", ["value_invalid"]),
        (f"{AWS}, role_session_name: 'a b'", ["value_invalid"]),
        (f"{AWS}, policy_arns: [x]", ["value_invalid"]),
        (f"{AWS}, scopes: [a]", ["value_invalid"]),
        (f"{AWS}, extra_params: {{a: b}}", ["value_invalid"]),
        (f"{AWS}, tenant: t", ["value_invalid"]),
        (f"{AWS}, audience_overrides: [{{host: x.s3.eu-west-1.amazonaws.com, audience: a}}]", ["value_invalid"]),
        (GOOGLE.replace("projects/1", "projects/x"), ["value_invalid"]),
        (f"{GOOGLE}, impersonate: 'x@evil.example/a'", ["value_invalid"]),
        (f"{GOOGLE}, delegates: [d@p.iam.gserviceaccount.com]", ["value_invalid"]),
        (f"{GOOGLE}, quota_project: 'a b'", ["value_invalid"]),
        (f"{GOOGLE}, impersonate_lifetime: 13h", ["value_invalid"]),
        (ENTRA.replace("t.example", "common"), ["value_invalid"]),
        (ENTRA.replace("t.example", "'a/b'"), ["value_invalid"]),
        (ENTRA.replace("/.default", ""), ["value_invalid"]),
        (ENTRA.replace("]", ", api://y/.default]"), ["value_invalid"]),
        (f"{ENTRA}, authority_host: 'https://login.example/x'", ["value_invalid"]),
        (f"{ENTRA}, client_auth: none", ["value_invalid"]),
        (f"{AWS}, token_endpoint: 'http://sts.example/'", ["token_endpoint_insecure"]),
    ],
)
def test_a_key_that_a_cloud_would_refuse_or_never_see_is_an_error(tmp_path: Path, grant: str, errors: list[str]) -> None:
    assert sorted(read(tmp_path, grant)[1]) == sorted(errors)


@pytest.mark.parametrize("grant", [AWS, GOOGLE, ENTRA])
def test_an_endpoint_that_is_not_the_clouds_own_is_a_warning_and_its_audience_stays(tmp_path: Path, grant: str) -> None:
    settings, errors, warnings = read(tmp_path, f"{grant}, token_endpoint: 'https://sts.example/x'")
    other, _, _ = read(tmp_path, grant)
    assert (errors, warnings) == ([], ["endpoint_overridden"])
    assert plan_of(settings).audience == plan_of(other).audience


@pytest.mark.parametrize(
    ("endpoint", "expected"),
    [
        ("host: b.s3.eu-west-1.amazonaws.com, signing_service: s3", "sigv4 s3 eu-west-1"),
        ("host: '**.cn-north-1.amazonaws.com.cn', signing_service: s3", "sigv4 s3 cn-north-1"),
        ("host: s3.us-gov-west-1.amazonaws.com, signing_service: s3, credential_signing: 'sigv4:body'", "sigv4:body s3 us-gov-west-1"),
        (
            "host: a.b.example, signing_service: x, signing_region: eu-west-1, credential_signing: 'sigv4:no_body'",
            "sigv4:no_body x eu-west-1",
        ),
        ("host: sts.amazonaws.com, signing_service: sts", "signing_region_required"),
        ("host: eu-west-1.amazonaws.com.evil.example, signing_service: s3", "signing_region_required"),
        ("host: b.s3.eu-west-1.amazonaws.com", "signing_service_required"),
        ("host: b.s3.eu-west-1.amazonaws.com, signing_service: 'a/b'", "value_invalid"),
        ("host: b.s3.eu-west-1.amazonaws.com, signing_service: s3, credential_signing: sigv4a", "value_invalid"),
        ("host: localhost, tls: none, signing_service: s3, signing_region: a, credential_signing: 'sigv4:no_body'", "value_invalid"),
    ],
)
def test_how_an_endpoint_is_signed(tmp_path: Path, endpoint: str, expected: str) -> None:
    settings, errors, _ = read(tmp_path, AWS, f"[{{{endpoint}}}]")
    if errors:
        assert errors == [expected]
        return
    (binding,) = settings.bindings
    assert binding.signing is not None
    assert f"{binding.signing.mode} {binding.signing.service} {binding.signing.region}" == expected
    assert binding.fields == {"authorization", "x-amz-date", "x-amz-security-token"}


def test_signing_needs_an_aws_credential_and_an_aws_credential_writes_no_other_field(tmp_path: Path) -> None:
    assert read(tmp_path, GOOGLE, "[{host: api.example.com, credential_signing: sigv4}]")[1] == ["signing_kind_mismatch"]
    assert read(tmp_path, AWS, credential="auth_style: header, header_name: X-Key, ")[1] == ["grant_header_invalid"]


def test_two_credentials_that_would_write_one_field_beside_their_own_are_ambiguous(tmp_path: Path) -> None:
    quota = f"{GOOGLE}, quota_project: p1"
    one, other = (
        profile(name=name, grant=f"{{{quota}}}", credential=f"auth_style: header, header_name: {header}, ")
        for name, header in (("one", "X-A"), ("two", "X-B"))
    )
    _, found = load(tmp_path, one, other)
    (problem,) = [one for one in found if one.severity == "error"]
    assert (problem.code, "https://api.example.com:443/" in problem.message, "x-goog-user-project" in problem.message) == (
        "binding_ambiguous",
        True,
        True,
    )


def test_a_pin_holds_role_and_signing() -> None:
    def pin(grant: str = AWS, endpoints: str = S3) -> str:
        found, _ = read_profile(profile(grant=f"{{{grant}}}", endpoints=endpoints).encode(), "p.yaml")
        assert found is not None
        return pin_of(found)

    changes = [
        pin(AWS.replace("role/r", "role/other")),
        pin(AWS.replace("eu-west-1", "eu-west-2")),
        pin(f"{AWS}, policy: '{{}}'"),
        pin(endpoints=S3.replace("service: s3", "service: s3, signing_region: eu-west-2")),
    ]
    assert len({pin(), *changes}) == 5
    assert pin(f"{AWS}, duration_seconds: 900") == pin()

"""The keys of grant kinds, presets, files and pins of provider profiles: G1, G2, G8, G9, G21, G22, G31, G32, G33 of grants.md."""

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from tests.config.test_profile import VECTORS, codes, load, profile

from robin.cli.explain_grant import explain_plan
from robin.cli.main import main
from robin.config.profile import read_profile
from robin.config.profile_schema import PROFILE
from robin.config.schema import document_schema

TT = "urn:ietf:params:oauth:token-type:"
CA = "urn:ietf:params:oauth:client-assertion-type:"
URL = "token_endpoint: 'https://issuer.example/token', issuer: 'https://issuer.example'"
EXCHANGE = f"grant_type: token_exchange, {URL}"
JWT_BEARER = f"grant_type: jwt_bearer, {URL}"
OKTA = "preset: okta, issuer: 'https://o.example', client_id: c, scopes: [s]"
AUTH0 = "preset: auth0, issuer: 'https://a.example/', client_id: c, audience: x"
KEYCLOAK = "preset: keycloak, issuer: 'https://k.example/realms/r'"
STORED = "\n  - {name: stored, auth_style: header, header_name: X-S}"
SIBLING = "subject_token: {source: provider_credential, credential: stored}"
P256 = {"kty": "EC", "crv": "P-256", "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU", "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}
KEY = json.dumps({**P256, "d": "jpsQnnGQmL-YBIffH1136cspYG6-0iY7X1fCE9-E9LI", "kid": "k"})  # RFC 7515 appendix A.3.1


def attach(folder: Path, grant: str, *, files: dict[str, str] | None = None, more: str = "", credentials: str = "") -> tuple[Any, Any]:
    """What one provider with this token_grant comes to; `files` are written with these contents."""
    paths = {}
    for name, content in (files or {}).items():
        path = folder / name
        path.write_text(content)
        path.chmod(0o600)
        paths[name] = str(path)
    text = profile(grant=f"{{{grant}}}").replace("\nendpoints", f"{credentials}\nendpoints")
    return load(folder, text, providers=f"  - {{profile: demo, callers: ['*'], files: {json.dumps(paths)}{more}}}\n")


WRONG = [
    (f"{EXCHANGE}, actor_token: {{source: identity}}", "key_missing"),
    (f"{EXCHANGE}, actor_token: {{source: caller, actor_token_type: x}}", "value_invalid"),
    (f"{EXCHANGE}, subject_token: {{source: other}}", "subject_source_invalid"),
    (f"{EXCHANGE}, subject_token: {{source: previous}}", "subject_source_invalid"),
    (f"{EXCHANGE}, subject_token: {{source: provider_credential}}", "subject_source_invalid"),
    (f"{EXCHANGE}, subject_token: {{source: provider_credential, credential: other}}", "subject_source_invalid"),
    (f"{EXCHANGE}, subject_token: {{source: file, header: X}}", "subject_source_invalid"),
    (f"{EXCHANGE}, subject_token: {{source: caller, header: Host}}", "subject_source_invalid"),
    (f"{EXCHANGE}, subject_token: {{source: file}}", "value_invalid"),
    (f"{EXCHANGE}, stages: []", "value_invalid"),
    (f"{EXCHANGE}, extra_params: {{actor_token: x}}", "extra_param_reserved"),
    (f"{EXCHANGE}, resource: [/relative]", "value_invalid"),
    (f"{URL}, requested_token_type: x", "value_invalid"),
    (f"{URL}, client_auth: private_key_jwt", "value_invalid"),
    (f"{URL}, client_auth: private_key_jwt, client_id: c", "value_invalid"),
    ("grant_type: static_file", "value_invalid"),
    ("grant_type: static_file, audience: a", "value_invalid"),
    (f"grant_type: chain, client_id: c, stages: [{{{URL}}}, {{{EXCHANGE}}}]", "value_invalid"),
    ("grant_type: chain", "value_invalid"),
    (f"grant_type: chain, stages: [{{{URL}}}]", "value_invalid"),
    (
        f"grant_type: chain, stages: [{{preset: aws, role_arn: 'arn:aws:iam::123456789012:role/r', region: eu-west-1}}, {{{EXCHANGE}}}]",
        "value_invalid",
    ),
    (f"grant_type: chain, stages: [{{grant_type: chain}}, {{{EXCHANGE}}}]", "value_invalid"),
    (f"grant_type: chain, stages: [{{{URL}}}, {{{URL}}}]", "value_invalid"),
    (f"grant_type: chain, stages: [{{{URL}}}, {{{EXCHANGE}, subject_token: {{source: identity}}}}]", "subject_source_invalid"),
    (f"grant_type: chain, stages: [{{{URL}, cache_ttl: 1s}}, {{{EXCHANGE}}}]", "profile_unknown_key"),
    ("grant_type: token_exchange", "token_endpoint_invalid"),
    (KEYCLOAK + ", client_id: c", "preset_mismatch"),
    (OKTA + ", client_auth: identity", "preset_mismatch"),
    (AUTH0 + ", client_auth: identity", "preset_mismatch"),
    (AUTH0 + ", grant_type: token_exchange", "preset_mismatch"),
    (AUTH0.replace("example/", "example"), "preset_mismatch"),
    (OKTA.replace(", scopes: [s]", ""), "value_invalid"),
    (OKTA.replace("[s]", "[]"), "value_invalid"),
    ("preset: keycloak", "value_invalid"),
]


@pytest.mark.parametrize(("grant", "code"), WRONG, ids=[f"{code}-{at}" for at, (_, code) in enumerate(WRONG)])
def test_g21_g31_keys_that_do_not_go_together_are_load_errors(tmp_path: Path, grant: str, code: str) -> None:
    _, found = attach(tmp_path, grant)
    assert code in codes(found), [str(one) for one in found]


def test_g31_okta_without_its_key_is_refused_and_a_key_must_be_usable_and_closed_to_others(tmp_path: Path) -> None:
    assert codes(attach(tmp_path, OKTA)[1]) == ["value_invalid"]
    assert codes(attach(tmp_path, OKTA, files={"token.key": KEY})[1]) == []
    for content in ("", "x", KEY.replace("P-256", "P-384"), KEY.replace("jpsQ", "AAAA"), "-----BEGIN PRIVATE KEY-----\n"):
        assert codes(attach(tmp_path, OKTA, files={"token.key": content})[1]) == ["key_unusable"], content
    (tmp_path / "open").write_text(KEY)
    (tmp_path / "open").chmod(0o644)
    for name, errors, warnings in (("open", ["key_unusable"], []), ("absent", [], ["file_missing"])):
        more = f", files: {{token.key: '{tmp_path}/{name}'}}"
        _, found = load(tmp_path, profile(grant=f"{{{OKTA}}}"), providers=f"  - {{profile: demo, callers: ['*']{more}}}\n")
        assert (codes(found), [one for one in codes(found, "warning") if one.startswith("file")]) == (errors, warnings)


def test_g25_a_file_that_anyone_can_write_and_a_name_of_no_credential_are_refused(tmp_path: Path) -> None:
    (tmp_path / "open").touch()
    (tmp_path / "open").chmod(0o666)
    for files, code in ((f"{{token: '{tmp_path}/open'}}", "secret_file_writable"), ("{tokem: /x}", "value_invalid")):
        text = profile(grant="{grant_type: static_file}")
        providers = f"  - {{profile: demo, callers: ['*'], files: {files}}}\n"
        assert code in codes(load(tmp_path, text, providers=providers)[1])


@pytest.mark.parametrize(
    ("grant", "endpoint", "audience", "kind", "auth"),
    [
        (KEYCLOAK, "https://k.example/realms/r/protocol/openid-connect/token", "https://k.example/realms/r", "", "identity"),
        (OKTA, "https://o.example/oauth2/v1/token", "https://o.example/oauth2/v1/token", CA + "jwt-bearer", "private_key_jwt"),
        (
            OKTA.replace("o.example", "o.example/oauth2/default"),
            "https://o.example/oauth2/default/v1/token",
            "https://o.example/oauth2/default/v1/token",
            CA + "jwt-bearer",
            "private_key_jwt",
        ),
        (AUTH0, "https://a.example/oauth/token", "https://a.example/", CA + "jwt-bearer", "private_key_jwt"),
    ],
)
def test_g32_a_preset_with_its_required_keys_gives_endpoint_audience_and_type(
    tmp_path: Path, grant: str, endpoint: str, audience: str, kind: str, auth: str
) -> None:
    plan, found = attach(tmp_path, grant, files={"token.key": KEY})
    assert codes(found) == []
    (one,) = plan.grants.values()
    assert (one.settings.assertion_audience, one.settings.assertion_type, one.settings.client_auth) == (audience, kind, auth)
    shown = explain_plan(one)
    assert shown["token_endpoint"] == endpoint
    expected = kind or f"{CA}jwt-spiffe for a SPIFFE ID, else {CA}jwt-bearer"
    assert dict(shown["form"])["client_assertion_type"] == expected  # type: ignore[call-overload]
    assert shown["identity_audience"] == audience


@pytest.mark.parametrize(
    ("grant", "audience"),
    [
        (f"{KEYCLOAK}, jwt_svid_audience: svid", "svid"),
        (KEYCLOAK.replace("preset: keycloak", "preset: keycloak, token_endpoint: 'https://other.example/t'"), "https://k.example/realms/r"),
        (f"{EXCHANGE}, subject_token: {{source: caller}}", "https://issuer.example"),
        ("token_endpoint: 'https://h/realms/r/protocol/openid-connect/token', grant_type: jwt_bearer", "https://h/realms/r"),
    ],
)
def test_g33_the_audience_of_presets_and_other_kinds(tmp_path: Path, grant: str, audience: str) -> None:
    plan, _ = attach(tmp_path, grant)
    assert [one.audience for one in plan.grants.values()] == [audience]


def test_a_preset_warns_of_what_its_issuer_ignores(tmp_path: Path) -> None:
    assert codes(attach(tmp_path, KEYCLOAK + ", audience: a")[1], "warning") == ["audience_ignored"]
    assert codes(attach(tmp_path, KEYCLOAK + ", audience: a, grant_type: token_exchange")[1], "warning") == []


@pytest.mark.parametrize(
    ("grant", "warned"),
    [
        (f"{EXCHANGE}, subject_token: {{source: caller}}", True),
        (f"{JWT_BEARER}, subject_token: {{source: file}}", True),
        (f"{EXCHANGE}, {SIBLING}", True),
        (f"grant_type: chain, stages: [{{{EXCHANGE}, subject_token: {{source: caller}}}}, {{{JWT_BEARER}}}]", True),
        (EXCHANGE, False),
        (f"grant_type: chain, stages: [{{{EXCHANGE}}}, {{{JWT_BEARER}}}]", False),
        (URL, False),
    ],
)
def test_tokens_of_others_are_sent_with_a_warning_unless_the_profile_is_pinned(tmp_path: Path, grant: str, warned: bool) -> None:
    files = {"token": "t", "stored": "s"}
    plan, found = attach(tmp_path, grant, files=files, credentials=STORED)
    assert codes(found) == []
    assert ("profile_pin_absent" in codes(found, "warning")) is warned
    assert ("file_unused" in codes(found, "warning")) is ("source: file" not in grant)
    _, found = attach(tmp_path, grant, files=files, credentials=STORED, more=f", pin: '{plan.pins['demo']}'")
    assert (codes(found), "profile_pin_absent" in codes(found, "warning")) == ([], False)
    assert [one.credential for one in plan.bindings] == (["token"] if SIBLING in grant else ["token", "stored"])


def test_g7_a_pin_holds_the_keys_of_each_kind(tmp_path: Path) -> None:
    stages = f"grant_type: chain, stages: [{{{EXCHANGE}}}, {{{JWT_BEARER}}}]"
    grants = [
        *(EXCHANGE, EXCHANGE + ", requested_token_type: x", EXCHANGE + ", subject_token: {source: caller}"),
        EXCHANGE + ", subject_token: {source: caller, header: X}",
        EXCHANGE + ", actor_token: {source: identity, actor_token_type: x}",
        *(stages, stages.replace("/token", "/other"), KEYCLOAK, EXCHANGE + ", fresh_assertion: true"),
    ]
    pins = {attach(tmp_path, grant)[0].pins["demo"] for grant in grants}
    assert len(pins) == len(grants)


def test_g22_without_stage1_identity_a_stored_token_is_exchanged_in_one_stage(tmp_path: Path) -> None:
    grant = f"{EXCHANGE}, {SIBLING}"
    (one,) = attach(tmp_path, grant, files={"stored": "s"}, credentials=STORED)[0].grants.values()
    assert (one.previous, one.subject_file) == (None, str(tmp_path / "stored"))
    assert codes(attach(tmp_path, grant, files={"stored": "s"}, credentials=STORED, more=", stage1_identity: other")[1]) == [
        "identity_unknown"
    ]
    (one,) = attach(tmp_path, grant, files={"stored": "s"}, credentials=STORED, more=", stage1_identity: default")[0].grants.values()
    assert one.previous is None
    more = ", stage1_identity: file"  # its tokens are for another audience
    assert codes(attach(tmp_path, grant, files={"stored": "s"}, credentials=STORED, more=more)[1]) == ["identity_audience_mismatch"]


def test_g8_profiles_with_the_new_keys_pass_the_json_schema_and_mistyped_ones_fail_it(tmp_path: Path) -> None:
    judge = jsonschema.Draft202012Validator(document_schema(PROFILE, "a provider profile"))

    def document(grant: dict[str, object]) -> dict[str, object]:
        return {"id": "a", "display_name": "A", "credentials": [{"name": "t", "token_grant": grant}], "endpoints": [{"host": "a.test"}]}

    url = {"token_endpoint": "https://i.test/t"}
    subject: dict[str, object] = {"source": "caller", "header": "X-A", "subject_token_type": "urn:x"}
    good: list[dict[str, object]] = [
        {"grant_type": "token_exchange", **url, "subject_token": subject, "actor_token": {"actor_token_type": "urn:x"}},
        {"grant_type": "chain", "stages": [url, {"grant_type": "jwt_bearer", **url}]},
        {"preset": "okta", "client_auth": "private_key_jwt", "fresh_assertion": True, "extra_params": {"a": "b"}},
        {"grant_type": "static_file"},
    ]
    bad: list[dict[str, object]] = [
        {"grant_type": "token_exchang"},
        {"preset": "okto"},
        {"grant_type": "token_exchange", "subject_token": {"sorce": "caller"}},
        {"grant_type": "token_exchange", "actor_token": {"source": "identity"}},
        {"grant_type": "chain", "stages": [{"stages": []}]},
        {"client_auth": "password"},
    ]
    for grant in good:
        assert list(judge.iter_errors(document(grant))) == []
        assert not [one for one in read_profile(json.dumps(document(grant)).encode(), "p")[1] if one.code == "profile_unknown_key"]
    for grant in bad:
        assert list(judge.iter_errors(document(grant))), grant
        assert read_profile(json.dumps(document(grant)).encode(), "p")[0] is None, grant


def test_g9_a_deny_rule_with_a_key_that_cannot_be_judged_closes_its_endpoint(tmp_path: Path) -> None:
    for deny in ("{operation_type: mutation}", "{method: GET, path: '/a[b]'}"):
        text = profile(endpoints=f"[{{host: a.example.com, deny_rules: [{deny}]}}]")
        plan, found = load(tmp_path, text)
        assert [bool(one.rules.closed) for one in plan.bindings] == [True]
        assert codes(found, "warning") == ["endpoint_closed"]


def test_a_profile_alone_is_right_though_its_files_are_not_known(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    keyed = f"{{grant_type: token_exchange, {URL}, client_auth: private_key_jwt, client_id: c, subject_token: {{source: file}}}}"
    (tmp_path / "p.yaml").write_text(profile(grant=keyed).replace("\nendpoints", "\n  - {name: stored, required: true}\nendpoints"))
    assert main(["check", "--profile", str(tmp_path / "p.yaml")]) == 0
    told = capsys.readouterr()
    assert "credential_inactive" in told.err
    assert "pin sha256:" in told.out


@pytest.mark.skipif(not VECTORS.is_dir(), reason="the published profiles are not on this machine (INTEROP_VECTORS names their folder)")
def test_g2_the_published_github_profile_takes_its_token_from_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "github.yaml").write_bytes((VECTORS / "github.yaml").read_bytes())
    (tmp_path / "token").write_text("t")
    assert main(["ca", "init", "--out", str(tmp_path / "ca")]) == 0
    provider = {"profile": "github", "callers": ["*"], "files": {"api_token": str(tmp_path / "token")}}
    gateway = {"profiles": ["github.yaml"], "providers": [provider], "bridge": {"slots": {"a": str(tmp_path / "ca")}}}
    config = tmp_path / "robin.yaml"
    config.write_text(json.dumps({"version": 1, "gateway": gateway}))
    capsys.readouterr()
    assert main(["check", "gateway", "--config", str(config)]) == 0
    assert "binaries_not_enforced" in capsys.readouterr().err

    def explain(*words: str) -> tuple[int, dict[str, Any]]:
        code = main(["explain", "gateway", "--config", str(config), *words, "--json"])
        return code, json.loads(capsys.readouterr().out)

    code, found = explain("GET", "https://api.github.com/user")
    (one,) = found["credentials"]
    assert (code, one["kind"], one["file"], one["header"]) == (0, "static_file", str(tmp_path / "token"), "authorization")
    for words in (("POST", "https://api.github.com/user"), ("GET", "https://api.github.com/graphql")):
        code, found = explain(*words)
        assert (code, found["code"], found["credentials"]) == (4, "endpoint_closed", [])

"""Profile files and providers: G1, G3 to G7, G11, G13, G14, G33 of grants.md."""

import os
import re
from pathlib import Path

import pytest

from robin.cli.main import main
from robin.config.diagnostic import Diagnostic, Position
from robin.config.profile import read_profile
from robin.config.provider_schema import FIELDS
from robin.config.providers import load_providers, pin_of
from robin.config.schema import Mapping
from robin.config.yaml_reader import read_yaml
from robin.planes.gateway.settings import ProviderSettings

VECTORS = Path(os.environ.get("INTEROP_VECTORS", Path(__file__).parents[3] / "shared" / "vectors")) / "openshell-profiles"

GRANT = "{token_endpoint: 'https://issuer.example/token', issuer: 'https://issuer.example'}"
IDENTITIES = "identities: {default: {source: jwtsvid, spiffe_socket: 'unix:///run/api.sock'}}"


def profile(
    *, grant: str = GRANT, endpoints: str = "[{host: api.example.com}]", credential: str = "", name: str = "demo", more: str = ""
) -> str:
    head = f"id: {name}\ndisplay_name: Demo\n{more}"
    return f"{head}credentials:\n  - {{name: token, {credential}token_grant: {grant}}}\nendpoints: {endpoints}\n"


def load(folder: Path, *profiles: str, providers: str = "") -> tuple[ProviderSettings, list[Diagnostic]]:
    """What the providers come to: by default one for each profile, for every caller."""
    names = []
    for at, text in enumerate(profiles):
        (folder / f"p{at}.yaml").write_text(text)
        names.append(text.partition("\n")[0].removeprefix("id: "))
    providers = providers or "".join(f"  - {{profile: {name}, callers: ['*']}}\n" for name in names)
    text = f"profiles: ['*.yaml']\nproviders:\n{providers}"
    root, found = read_yaml(text.encode(), "robin.yaml", Mapping(fields=FIELDS))
    assert root is not None
    assert found == ()
    at = Position(file="robin.yaml", line=1, col=1)
    identities, callers = {"default": None, "file": "https://file.example"}, {"app": ("k8s:demo/app",), "team": ("k8s:demo/*",)}
    plan, _, found = load_providers(root.value, folder, at, identities, callers)
    return plan.settings, list(found)


def check(folder: Path, section: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, list[str]]:
    """The exit code of `robin check` for a gateway with this section, whose profiles stand in the folder, and what it says of them."""
    file = folder / "robin.conf"  # not one of `*.yaml`
    file.write_text(f"version: 1\ngateway: {{{section}}}\n")
    code = main(["check", "gateway", "--config", str(file)])
    return code, re.findall(r":\d+: ((?:error|warning): \w+): ", capsys.readouterr().err)


def codes(found: list[Diagnostic], severity: str = "error") -> list[str]:
    return [one.code for one in found if one.severity == severity]


@pytest.mark.parametrize(
    ("change", "code", "line"),
    [
        ({"grant": "{token_endpont: x}"}, "profile_unknown_key", 4),
        ({"more": "id: again\n"}, "yaml_invalid", 3),
        ({"more": "description: &x a\n"}, "yaml_invalid", 3),
        ({"more": "\tdescription: a\n"}, "yaml_invalid", 3),
        ({"grant": GRANT.replace("{", "{scopes: [no], ")}, "value_invalid", 4),
        ({"name": "Demo_1"}, "profile_id_invalid", 1),
        ({"credential": "header_name: Host, "}, "grant_header_invalid", 4),
        ({"credential": "header_name: Content-Length, "}, "grant_header_invalid", 4),
        ({"credential": "header_name: Connection, "}, "grant_header_invalid", 4),
        ({"credential": "header_name: 'X Y', "}, "grant_header_invalid", 4),
        ({"credential": "auth_style: header, "}, "grant_header_invalid", 4),
        ({"credential": "auth_style: query, "}, "grant_auth_style_invalid", 4),
        ({"credential": "auth_style: basic, username: 'a:b', "}, "value_invalid", 4),
        ({"credential": "auth_style: basic, header_name: X-Key, "}, "grant_header_invalid", 4),
        ({"credential": "username: a, "}, "value_invalid", 4),
        ({"credential": "placeholder: too-short, "}, "value_invalid", 4),
        ({"credential": "placeholder: 'robin placeholder', "}, "value_invalid", 4),
        ({"grant": GRANT.replace("{", "{grant_type: token_exchang, ")}, "value_invalid", 4),
        ({"grant": GRANT.replace("{", "{preset: okto, ")}, "value_invalid", 4),
        ({"grant": GRANT.replace("{", "{client_auth: x509_svid, ")}, "value_invalid", 4),
        ({"grant": GRANT.replace("{", "{extra_params: {scope: x}, ")}, "extra_param_reserved", 4),
        ({"grant": GRANT.replace("{", "{cache_ttl: 0s, cache_ttl_seconds: 5, ")}, "value_invalid", 4),
        ({"endpoints": "[{host: a.example.com, tls: skip}]"}, "endpoint_uninspected", 5),
        ({"endpoints": "[{host: a.example.com, credential_signing: sigv4}]"}, "signing_kind_mismatch", 5),
        ({"endpoints": "[{host: a.example.com, access: full, rules: []}]"}, "value_invalid", 5),
        ({"more": "description: '" + "x" * 262144 + "'\n"}, "profile_too_large", 1),
    ],
)
def test_g3_and_g5_a_profile_is_refused_with_code_and_place(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], change: dict[str, str], code: str, line: int
) -> None:
    value, found = read_profile(profile(**change).encode(), "p.yaml")
    assert value is None
    assert (code, line) in [(one.code, one.at.line) for one in found if one.severity == "error"], [str(one) for one in found]
    (tmp_path / "p.yaml").write_text(profile(**change))
    assert main(["check", "--profile", str(tmp_path / "p.yaml")]) == 2
    assert re.search(rf"p\.yaml:{line}:\d+: error: {code}: ", capsys.readouterr().err)


def test_g3_an_unknown_key_is_named_with_the_nearest_one() -> None:
    _, found = read_profile(profile(grant="{token_endpont: x}").encode(), "p.yaml")
    assert "token_endpoint (the nearest)" in str(found[0])
    assert str(found[0]).startswith("p.yaml:4:")


@pytest.mark.parametrize("host", ["*", "*.com", "**.co.uk", "*.github.io", "a.*.com", "*.svc.cluster.local", "a?.example.com"])
def test_g13_hosts_that_are_too_broad_or_no_patterns_are_load_errors(host: str) -> None:
    _, found = read_profile(profile(endpoints=f"[{{host: '{host}'}}]").encode(), "p.yaml")
    assert {one.code for one in found} <= {"pattern_invalid", "host_pattern_too_broad"}
    assert found


def test_g13_spellings_of_one_host_are_one(tmp_path: Path) -> None:
    plan, _ = load(tmp_path, profile(endpoints="[{host: API.Example.COM.}, {host: bücher.example}, {host: xn--bcher-kva.example}]"))
    assert [one.host.text for one in plan.bindings] == ["api.example.com", "xn--bcher-kva.example", "xn--bcher-kva.example"]


@pytest.mark.parametrize(
    ("host", "code"),
    [
        ("127.0.0.1:80", ""),
        ("[::1]:80", ""),
        ("[::ffff:127.0.0.1]:80", ""),
        ("localhost", ""),
        ("a.b.svc", "token_endpoint_insecure"),
        ("a.b.svc.cluster.local", "token_endpoint_insecure"),
        ("10.0.0.1", "token_endpoint_insecure"),
        ("169.254.169.254", "token_endpoint_invalid"),
        ("[64:ff9b::a9fe:a9fe]", "token_endpoint_invalid"),
        ("0.0.0.0", "token_endpoint_invalid"),
        ("u:p@localhost", "token_endpoint_invalid"),
        ("localhost/t?x=1", "token_endpoint_invalid"),
    ],
)
def test_g4_a_token_endpoint_over_http_is_on_loopback(tmp_path: Path, host: str, code: str) -> None:
    _, found = load(tmp_path, profile(grant=f"{{token_endpoint: 'http://{host}/token', issuer: 'x'}}"))
    assert codes(found) == ([code] if code else [])


def test_g6_a_provider_without_callers_is_refused(tmp_path: Path) -> None:
    _, found = load(tmp_path, profile(), providers="  - {profile: demo}\n")
    assert codes(found) == ["provider_callers_missing"]


def test_g7_a_pin_holds_what_decides_where_tokens_go(tmp_path: Path) -> None:
    def pin(text: str) -> str:
        value, _ = read_profile(text.encode(), "p.yaml")
        assert value is not None
        return pin_of(value)

    right = pin(profile())
    assert pin(profile(grant=GRANT.replace("{", "{cache_ttl_seconds: 5, "))) == right
    others = [
        profile(grant=GRANT.replace("/token", "/tokem")),
        profile(credential="header_name: Authorizatiom, "),
        profile(endpoints="[{host: api.example.con}]"),
    ]
    assert right not in {pin(text) for text in others}
    _, found = load(tmp_path, profile(), providers=f"  - {{profile: demo, callers: ['*'], pin: '{right}'}}\n")
    assert codes(found) == []
    for text in others:
        _, found = load(tmp_path, text, providers=f"  - {{profile: demo, callers: ['*'], pin: '{right}'}}\n")
        assert codes(found) == ["profile_pin_mismatch"]


@pytest.mark.parametrize("other", ["", "'**'", "/**"])
def test_g11_two_providers_with_one_reach_are_ambiguous_and_a_witness_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], other: str
) -> None:
    first = profile(endpoints="[{host: api.example.com, path: ''}]")
    second = profile(
        name="other", endpoints=f"[{{host: api.example.com, path: {other or repr('')}}}]", grant=GRANT.replace("{", "{audience: o, ")
    )
    _, found = load(tmp_path, first, second)
    assert codes(found) == ["binding_ambiguous"]
    text = str(found[-1])
    assert "demo/token#0 and other/token#0 both match GET https://api.example.com:443/ with equal rank" in text
    assert "Fix: narrow one path or methods list" in text
    providers = "[{profile: demo, callers: ['*']}, {profile: other, callers: ['*']}]"
    code, said = check(tmp_path, f"profiles: ['*.yaml'], {IDENTITIES}, providers: {providers}", capsys)
    assert (code, "error: binding_ambiguous" in said) == (2, True)


@pytest.mark.parametrize(
    ("override", "code"),
    [
        ("host: '*.example.com'", "override_not_subset"),
        ("host: api.example.com, port: 8443", "override_not_subset"),
        ("host: api.example.com, path: /", "override_not_subset"),
        ("host: api.example.com, methods: [GET, POST]", "override_not_subset"),
        ("host: api.example.com, path: /v1/a, methods: [GET]", ""),
    ],
)
def test_g14_an_override_is_inside_one_endpoint(tmp_path: Path, override: str, code: str) -> None:
    grant = GRANT.replace("{", f"{{audience_overrides: [{{{override}, audience: inner}}], ")
    plan, found = load(tmp_path, profile(grant=grant, endpoints="[{host: api.example.com, path: /v1/**, methods: [GET, HEAD]}]"))
    assert codes(found) == ([code] if code else [])
    if not code:
        base, inner = plan.bindings
        assert inner.rank > base.rank
        settings = plan.grants[inner.grant].settings
        assert settings is not None
        assert settings.audience == "inner"


@pytest.mark.parametrize(
    ("keys", "audience", "warned"),
    [
        ("jwt_svid_audience: svid, issuer: iss", "svid", False),
        ("issuer: iss", "iss", False),
        ("", "https://h/x/realms/r", False),
        ("", "https://h/token", True),
    ],
)
def test_g33_the_audience_of_an_assertion_is_the_first_that_is_given(tmp_path: Path, keys: str, audience: str, warned: bool) -> None:
    url = "https://h/token" if warned else "https://h/x/realms/r/protocol/openid-connect/token"
    plan, found = load(tmp_path, profile(grant=f"{{token_endpoint: '{url}'{', ' + keys if keys else ''}}}"))
    assert [one.audience for one in plan.grants.values()] == [audience]
    assert codes(found, "warning") == (["assertion_audience_guessed"] if warned else [])


def test_g33_two_issuers_with_one_audience_are_refused(tmp_path: Path) -> None:
    grant = "{token_endpoint: 'https://two.example/token', issuer: 'https://issuer.example'}"
    _, found = load(tmp_path, profile(), profile(name="other", grant=grant, endpoints="[{host: b.example.com}]"))
    assert codes(found) == ["assertion_audience_shared"]


def test_what_cannot_be_enforced_never_widens(tmp_path: Path) -> None:
    endpoints = (
        "[{host: a.example.com, rules: [{allow: {method: GET, path: /x}}, {allow: {operation_type: query}}]},"
        " {host: b.example.com, deny_rules: [{path: '/[a]'}]}, {host: c.example.com, protocol: graphql}]"
    )
    plan, found = load(tmp_path, profile(endpoints=endpoints))
    rules = {one.host.text: one.rules for one in plan.bindings}
    assert len(rules["a.example.com"].allow or ()) == 1
    assert rules["b.example.com"].closed
    assert rules["c.example.com"].closed
    assert codes(found, "warning") == ["rule_dropped", "endpoint_closed", "endpoint_closed"]


@pytest.mark.skipif(not VECTORS.is_dir(), reason="the published profiles are not on this machine (INTEROP_VECTORS names their folder)")
@pytest.mark.parametrize("plaintext", [True, False])
def test_g1_the_published_demo_profile_loads_unchanged(tmp_path: Path, capsys: pytest.CaptureFixture[str], plaintext: bool) -> None:
    text = (VECTORS / "provider-profile.yaml").read_text()
    hosts = [f"{name}.default.svc.cluster.local" for name in ("token-issuer", "alpha", "beta")] if plaintext else []
    (tmp_path / "p.yaml").write_text(text)
    _, found = load(tmp_path, providers=f"  - {{profile: spiffe-token-demo, callers: [app], unsafe_plaintext: {hosts}}}\n")
    assert codes(found) == ([] if plaintext else ["token_endpoint_insecure", "endpoint_plaintext", "endpoint_plaintext"])
    assert "binaries_not_enforced" in codes(found, "warning")
    provider = f"{{profile: spiffe-token-demo, callers: ['*'], unsafe_plaintext: {hosts}}}"
    code, said = check(tmp_path, f"profiles: [p.yaml], {IDENTITIES}, providers: [{provider}]", capsys)
    errors = [] if plaintext else ["error: token_endpoint_insecure", *["error: endpoint_plaintext"] * 2]
    assert (code, [one for one in said if "error" in one]) == (0 if plaintext else 2, errors)
    assert "warning: binaries_not_enforced" in said


@pytest.mark.skipif(not VECTORS.is_dir(), reason="the published profiles are not on this machine (INTEROP_VECTORS names their folder)")
def test_every_published_profile_reads_without_an_unknown_key() -> None:
    for path in VECTORS.glob("*.yaml"):
        _, found = read_profile(path.read_bytes(), path.name)
        expected = {"signing_kind_mismatch", "pattern_invalid", "host_pattern_too_broad"} if path.name == "aws-s3.yaml" else set()
        assert {one.code for one in found if one.severity == "error"} == expected, path.name


def test_callers_of_providers_are_ids_patterns_and_names_of_the_gateway(tmp_path: Path) -> None:
    plan, found = load(tmp_path, profile(), providers="  - {profile: demo, callers: [app, 'k8s:other/*', unknown]}\n")
    assert [one.callers for one in plan.bindings] == [{"k8s:demo/app", "k8s:other/*", "unknown"}]
    assert codes(found, "warning") == ["caller_unknown"]
    _, found = load(tmp_path, profile(), providers="  - {profile: demo, callers: ['spiffe://*/app']}\n")
    assert codes(found) == ["value_invalid"]


@pytest.mark.parametrize(
    ("first", "second", "ambiguous"), [("app", "team", True), ("team", "'k8s:demo/other'", True), ("app", "'k8s:x/y'", False)]
)
def test_callers_overlap_also_where_one_is_a_pattern(tmp_path: Path, first: str, second: str, ambiguous: bool) -> None:
    providers = f"  - {{profile: demo, callers: [{first}]}}\n  - {{profile: other, callers: [{second}]}}\n"
    _, found = load(tmp_path, profile(), profile(name="other", grant=GRANT.replace("{", "{audience: o, ")), providers=providers)
    assert codes(found) == (["binding_ambiguous"] if ambiguous else [])


def test_a_file_serves_one_audience(tmp_path: Path) -> None:
    _, found = load(tmp_path, profile(), providers="  - {profile: demo, callers: [app], identity: file}\n")
    assert codes(found) == ["identity_audience_mismatch"]
    text = profile(grant=GRANT.replace("{", "{jwt_svid_audience: 'https://file.example', "))
    _, found = load(tmp_path, text, providers="  - {profile: demo, callers: [app], identity: file}\n")
    assert codes(found) == []


def test_what_is_no_file_is_unreadable_and_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "p.yaml")
    _, found = load(tmp_path, providers="  - {profile: demo, callers: [app]}\n")
    assert codes(found) == ["profile_unreadable"]


BARE = "id: a\ndisplay_name: A\ncredentials: [{name: key%s}]\nendpoints: [{host: a.example.com}]\n"
OVERRIDES = """{audience_overrides: [{host: api.example.com, path: /v1/*/**, audience: a},
    {host: api.example.com, path: /v1/*, audience: b}], """
OTHER = profile(name="two", grant=GRANT.replace("{", "{audience: o, "), endpoints="[{host: '*.example.com', path: /v1/**}]")
TOGETHER = [
    ("profile_duplicate_id", "error", (profile(), profile())),
    ("credential_required", "error", (BARE % ", required: true",)),
    ("credential_inactive", "warning", (BARE % "",)),
    ("refresh_not_supported", "warning", (profile(credential="refresh: {strategy: oauth2_refresh_token}, "),)),
    ("enforcement_treated_as_enforce", "warning", (profile(endpoints="[{host: api.example.com, enforcement: audit}]"),)),
    ("partial_overlap", "warning", (profile(endpoints="[{host: api.example.com, methods: [GET]}]"), OTHER)),
    ("override_unused", "warning", (profile(grant=GRANT.replace("{", OVERRIDES)),)),
]


@pytest.mark.parametrize(("code", "severity", "profiles"), TOGETHER, ids=[code for code, _, _ in TOGETHER])
def test_what_a_profile_comes_to_has_a_code(tmp_path: Path, code: str, severity: str, profiles: tuple[str, ...]) -> None:
    _, found = load(tmp_path, *profiles)
    assert code in codes(found, severity), [str(one) for one in found]
    assert (code in codes(found, "error")) == (severity == "error")
    assert severity == "error" or codes(found, "error") == []

"""The gateway's section of robin.yaml: each load error by one file, with its code and position, and what the defaults are."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from robin.cli.main import main
from robin.config.gateway_load import load_gateway
from robin.planes.gateway.settings import GatewaySettings

RULE = "{name: r, hosts: [a.test]%s}"
PARENT = '  parent: {url: "https://gateway:8081", token_file: /t%s}'


def load(folder: Path, section: str) -> tuple[GatewaySettings | None, list[tuple[str, int]]]:
    """The settings, and code and line of each diagnostic. The section begins on line 3."""
    file = folder / "robin.yaml"
    file.write_text(f"version: 1\ngateway:\n{section}\n")
    settings, found = load_gateway(str(file))
    return settings, [(one.code, one.at.line) for one in found]


def rules(*texts: str) -> str:
    return "  policy:\n    rules:\n" + "\n".join(f"      - {text}" for text in texts)


def routes(*texts: str) -> str:
    """Routes to https://a.test, named r0, r1 and so on."""
    entries = [text if "upstream" in text else ", ".join(filter(None, ("upstream: 'https://a.test'", text))) for text in texts]
    return "  routes:\n" + "\n".join(f"      - {{name: r{at}, {entry}}}" for at, entry in enumerate(entries))


ERRORS = [
    ("unknown_key", '  nmae: x'),
    ("value_invalid", "  canary: x"),
    *(("listen_conflict", f'  listeners: [{{name: p, listen: "{listen}"}}{more}]\n  admin: {{listen: "{admin}", probes: "{probes}"}}')
      for listen, more, admin, probes in (
          ("127.0.0.1:9464", "", "127.0.0.1:9464", "off"),
          ("127.0.0.1:81", "", "off", "0.0.0.0:81"),
          ("127.0.0.1:81", ', {name: q, kind: reverse, listen: "127.0.0.1:81"}', "off", "off"),
          ("127.0.0.1:81", "", "127.0.0.1:82", "127.0.0.1:82"))),
    ("listen_conflict", '  listeners: [{name: p, listen: "127.0.0.1:9464"}]'),
    ("listen_conflict", '  admin: {probes: "0.0.0.0:8081"}'),
    ("listen_conflict", PARENT % "" + '\n  admin: {listen: "127.0.0.1:8081"}'),
    ("env_expansion", '  name: "${NAME}"'),
    ("open_listener", '  listeners: [{name: p, listen: "0.0.0.0:8081"}]'),
    ("open_listener", '  admin: {listen: "0.0.0.0:9464"}'),
    ("plaintext_token", '  listeners: [{name: p, listen: "0.0.0.0:8081", auth: jwt, issuers: [c]}]\n  issuers:'
     ' [{name: c, kind: oidc, issuer: i, audiences: [a], jwks: {file: /k}}]'),
    ("issuer_unknown", "  listeners: [{name: p, auth: jwt, issuers: [nope]}]"),
    ("algorithm_refused", '  issuers: [{name: c, kind: oidc, issuer: "https://i", audiences: [a], algorithms: [HS256], jwks: {file: /k}}]'),
    ("algorithm_refused", '  issuers: [{name: c, kind: oidc, issuer: "https://i", audiences: [a], algorithms: [none], jwks: {file: /k}}]'),
    ("pattern_invalid", rules("{name: r, hosts: [a..b]}")),
    ("pattern_invalid", rules('{name: r, hosts: [a.test], paths: ["x"]}')),
    ("rule_conflict", rules("{name: r, hosts: [a.test]}", "{name: t, hosts: [a.test], schemes: [tcp], ports: [443]}")),
    ("rule_tie", rules("{name: r, hosts: [a.test], private: [10.0.0.0/8]}", "{name: t, hosts: [a.test]}")),
    ("rule_tie", rules('{name: r, hosts: ["a*.a.test"], private: []}', '{name: t, hosts: ["*z.a.test"], tls: passthrough}')),
    ("rule_tie", rules('{name: r, hosts: [a.test], callers: ["k8s:x/*"]}', "{name: t, hosts: [a.test], tls: passthrough}")),
    ("rule_conflict", rules("{name: d, effect: deny, hosts: [a.test]}", '{name: t, hosts: ["**"], schemes: [tcp], ports: [443]}')),
    ("rule_conflict", rules('{name: d, effect: deny, hosts: ["*.a.test"], paths: ["/x"]}',
     '{name: t, hosts: ["b*.a.test"], schemes: [tcp], ports: [443]}')),
    *(("value_invalid", rules(f'{{name: r, hosts: [a.test], callers: ["{caller}"]}}')) for caller in
      ("**", "*/x", "spiffe:/**", "spiffe://*/x", "spiffe://t*/x", "spiffe://td", "k8s:*/agent", "k8s:a*/b", "k8s:a/**/b", "jwt:**")),
    *(("value_invalid", f'  callers: {{short: ["{caller}"]}}') for caller in ("**", "spiffe:/**", "spiffe://*/x")),
    ("bridge_required", rules("{name: r, hosts: [a.test], methods: [GET]}")),
    ("bridge_required", '  listeners: [{name: p, tls: {minted_names: [a.test]}}]'),
    ("passthrough_blind", rules("{name: r, hosts: [a.test], methods: [GET], tls: passthrough}")),
    ("passthrough_blind", rules("{name: r, hosts: [a.test], upgrade: [websocket], tls: passthrough}")),
    ("value_invalid", '  listeners: [{name: p, auth: mtls, tls: {minted_names: [a.test]}}]'),
    ("value_invalid", '  listeners: [{name: p, auth: mtls, mtls: {ca_file: /c, trust_domains: [t]}}]'),
    ("value_invalid", '  listeners: [{name: p, auth: mtls, tls: {minted_names: [a.test]}, mtls: {ca_file: /c}}]'),
    ("value_invalid", '  listeners: [{name: p, tls: {cert_file: /c}}]'),
    ("value_invalid", '  listeners: [{name: p, tls: {}}]'),
    ("value_invalid", '  listeners: [{name: p, uids: [7]}]'),
    ("value_invalid", '  listeners: [{name: p, auth: unix, listen: "unix:/x", uids: [65534]}]'),
    ("route_tie", routes("", "")),
    ("route_tie", routes("hosts: ['a*.x.test']", "hosts: ['*z.x.test', b.test]")),
    ("route_tie", routes("path_prefix: /a/", "path_prefix: /%61")),
    *(("bypass_pattern", routes(f"bypass_paths: ['{path}']")) for path in
      ("*", "/*", "/**", "/", "/a/**", "/a/*/b", "/a*", "/a/../b", "/a%2fb", "a", "//*", "/*/*", "/a%2541")),
    ("self_target", routes("upstream: 'https://127.0.0.1:8081'")),
    ("self_target", routes("upstream: 'http://localhost:9464/x', unsafe_plaintext: true")),
    ("self_target", "  addresses: {self_names: [gw.test]}\n" + routes("upstream: 'https://gw.test'")),
    ("private_cidr", routes("private: [127.0.0.0/8]")),
    ("value_invalid", routes("upstream: 'http://a.test'")),
    *(("value_invalid", routes(f"upstream: '{text}'"))
      for text in ("a.test", "https://u@a.test", "https://a.test/a%2fb", "https://a.test/%61", "https://a.test/x?y", "ftp://a.test")),
    *(("pattern_invalid", routes(f"path_prefix: '{text}'")) for text in ("a", "/a/*", "/a/../b", "//a", "/a;b")),
    ("pattern_invalid", routes("hosts: ['a.test:80']")),
    ("pattern_invalid", routes("allow: [{callers: ['*'], methods: [get]}]")),
    ("value_invalid", routes("allow: [{methods: [GET]}]")),
    ("value_invalid", routes("allow: [{callers: ['spiffe://*/x']}]")),
    ("unknown_key", routes("tls: passthrough")),
    ("value_invalid", routes("upgrade: [h2c]")),
    *(("parent_excludes", f"{PARENT % ''}\n  {key}: {value}") for key, value in
      (("policy", "{}"), ("bridge", "{}"), ("issuers", "[]"), ("providers", "[]"), ("profiles", "[]"), ("identities", "{}"),
       ("callers", "{}"), ("addresses", "{}"), ("upstream_tls", "{}"), ("canary", "a:1"), ("grants", "{}"), ("routes", "[]"),
       ("limits", "{mints_per_second: 1}"), ("timeouts", "{first_bytes: 1s}"))),
    ("parent_excludes", PARENT % "" + "\n  listeners: [{name: p, kind: reverse}]"),
    ("parent_excludes", PARENT % "" + '\n  listeners: [{name: p, tls: {cert_file: /c, key_file: /dev/null}}]'),
    ("open_listener", PARENT % "" + '\n  listeners: [{name: p, listen: "0.0.0.0:8081", unsafe_open: true}]'),
    ("self_target", '  parent: {url: "http://localhost:8081", token_file: /t}'),
    ("plaintext_token", '  parent: {url: "http://gateway:8081", token_file: /t}'),
    ("plaintext_token", '  parent: {url: "http://10.0.0.1:8081", token_file: /t}'),
    ("value_invalid", '  parent: {url: "https://gateway:8081/x", token_file: /t}'),
    ("value_invalid", '  parent: {url: "http://127.0.0.1:1", ca_file: /c, token_file: /t}'),
    ("key_missing", '  parent: {url: "https://gateway:8081"}'),
    ("key_missing", "  parent: {token_file: /t}"),
    ("unknown_key", PARENT % ", policy: {}"),
    ("passthrough_blind", rules('{name: r, hosts: [a.test], paths: ["/x"], tls: passthrough}')),
    ("private_needs_exact_host", rules('{name: r, hosts: ["*.a.test"], private: [10.1.0.0/16]}')),
    ("private_cidr", rules("{name: r, hosts: [a.test], private: [127.0.0.0/8]}")),
    ("private_cidr", rules("{name: r, hosts: [a.test], private: [0.0.0.0/0]}")),
    ("self_target", '  addresses: {unsafe_loopback: ["127.0.0.1:8081"]}'),
    ("ca_invalid", "  bridge: {slots: {a: /nowhere}}"),
    ("value_invalid", "  limits: {tunnels: many}"),
    ("value_invalid", "  audit: {file: /nowhere/audit.jsonl}"),
    ("value_invalid", "  audit: {checkpoint_key_file: /nowhere/key.pem}"),
]  # fmt: skip


ISSUER = 'token_grant: {token_endpoint: "https://i.test/token", issuer: "https://i.test"}'
DEMO = f"id: demo\ndisplay_name: Demo\ncredentials: [{{name: t, {ISSUER}}}]\nendpoints: [{{host: '*.api.test'}}]\n"
IDENTITY = "  identities: {default: {source: jwtsvid, spiffe_socket: 'unix:///run/api.sock'}}\n  profiles: [demo.yaml]\n"
PROVIDER = "  providers: [{profile: demo, callers: ['*']%s}]\n"
BRIDGE = "  bridge: {slots: {a: CA}}\n"
OPEN = '  listeners: [{name: p, listen: "0.0.0.0:8081", unsafe_open: true}]\n'
ATTACHED = [
    ("", IDENTITY + PROVIDER % "" + BRIDGE),
    ("bridge_required", IDENTITY + PROVIDER % ""),
    ("provider_needs_identity", IDENTITY + PROVIDER % "" + BRIDGE + OPEN),
    ("provider_needs_identity", IDENTITY + PROVIDER.replace("'*'", "open") % "" + BRIDGE + OPEN),
    ("", IDENTITY + PROVIDER.replace("'*'", "'k8s:a/b'") % "" + BRIDGE + OPEN),
    ("passthrough_blind", IDENTITY + PROVIDER % "" + BRIDGE + rules("{name: r, hosts: [x.api.test], tls: passthrough}")),
    ("passthrough_blind", IDENTITY + PROVIDER % ", permit: false" + BRIDGE
     + rules("{name: r, hosts: ['**'], schemes: [tcp], ports: [443]}")),
    ("", IDENTITY + PROVIDER % "" + BRIDGE + rules("{name: r, hosts: [other.test], tls: passthrough}")),
    ("identity_unknown", IDENTITY + PROVIDER % ", identity: other" + BRIDGE),
    ("identity_unknown", "  profiles: [demo.yaml]\n" + PROVIDER % "" + BRIDGE),
    ("identity_audience_mismatch", IDENTITY.replace("jwtsvid, spiffe_socket: 'unix:///run/api.sock'", "file, token_file: /t, audience: x")
     + PROVIDER % "" + BRIDGE),
    ("key_missing", IDENTITY.replace("spiffe_socket: 'unix:///run/api.sock'", "hint: x")),
    ("value_invalid", IDENTITY.replace("source: jwtsvid", "source: file")),
    ("value_invalid", IDENTITY.replace("unix:///run/api.sock", "api.sock")),
    ("secret_file_writable", IDENTITY.replace("jwtsvid, spiffe_socket: 'unix:///run/api.sock'", "file, token_file: CA/open")),
    ("profile_pin_mismatch", IDENTITY + PROVIDER % f", pin: 'sha256:{'0' * 64}'" + BRIDGE),
    ("provider_unknown_profile", IDENTITY + PROVIDER.replace("demo", "dem") % "" + BRIDGE),
    ("provider_callers_missing", IDENTITY + PROVIDER.replace("'*'", "") % "" + BRIDGE),
    ("profile_unreadable", IDENTITY.replace("demo.yaml", "none.yaml")),
    ("value_invalid", IDENTITY + PROVIDER % ", files: {u: /x}" + BRIDGE),
]  # fmt: skip


@pytest.mark.parametrize(("code", "section"), ATTACHED, ids=[f"{code or 'good'}-{index}" for index, (code, _) in enumerate(ATTACHED)])
def test_a_provider_is_checked_against_listeners_rules_bridge_and_identities(tmp_path: Path, code: str, section: str) -> None:  # E18, E40
    assert main(["ca", "init", "--out", str(tmp_path / "ca")]) == 0
    (tmp_path / "demo.yaml").write_text(DEMO)
    (tmp_path / "ca" / "open").touch()
    (tmp_path / "ca" / "open").chmod(0o666)
    settings, found = load(tmp_path, section.replace("CA", str(tmp_path / "ca")))
    assert [name for name, _ in found] == ([code] if code else [])
    assert (settings is None) is bool(code)


def test_explain_shows_the_credential_how_it_is_obtained_and_why_others_lose(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ca", "init", "--out", str(tmp_path / "ca")]) == 0
    (tmp_path / "demo.yaml").write_text(DEMO.replace("'*.api.test'}", "'*.api.test', access: read-only}, {host: x.api.test, path: /v1/**}"))
    (tmp_path / "robin.yaml").write_text("version: 1\ngateway:\n" + IDENTITY + PROVIDER % "" + BRIDGE.replace("CA", str(tmp_path / "ca")))
    capsys.readouterr()

    def explain(*words: str) -> tuple[int, dict[str, Any]]:
        code = main(["explain", "gateway", "--config", str(tmp_path / "robin.yaml"), *words, "--json"])
        return code, json.loads(capsys.readouterr().out)

    code, found = explain("GET", "https://x.api.test/v1/users")
    assert (code, found["rule"], found["tls"]) == (0, "provider:demo", "bridge")
    (one,) = found["credentials"]
    assert one.items() >= {"binding": "demo/t#1", "header": "Authorization", "token_endpoint": "https://i.test/token"}.items()
    assert ["client_assertion", "<identity token>"] in one["form"]
    assert found["bindings"] == [
        {"binding": "demo/t#0", "reason": "demo/t#1 is more specific"},
        {"binding": "demo/t#1", "reason": "wins"},
    ]
    code, found = explain("POST", "https://y.api.test/")
    assert (code, found["code"], found["credentials"]) == (4, "endpoint_closed", [])
    assert explain("CONNECT", "y.api.test:443")[1]["tls"] == "bridge"
    code, found = explain("GET", "https://y.api.test/", "--caller", "open")
    assert (code, found["code"]) == (4, "rule_default")
    assert {one["reason"] for one in found["bindings"]} == {"caller"}
    assert main(["explain", "gateway", "--config", str(tmp_path / "robin.yaml"), "GET", "https://x.api.test/v1/../users"]) == 5
    assert main(["check", "--config", str(tmp_path / "robin.yaml")]) == 0
    assert "profile demo: pin sha256:" in capsys.readouterr().out


@pytest.mark.parametrize(("code", "section"), ERRORS, ids=[f"{code}-{index}" for index, (code, _) in enumerate(ERRORS)])
def test_each_error_has_its_code_and_its_line_and_ends_the_process_with_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], code: str, section: str
) -> None:  # E18
    settings, found = load(tmp_path, section)
    assert settings is None
    assert code in [name for name, _ in found]
    assert all(line >= 3 for _, line in found)
    file = tmp_path / "robin.yaml"
    assert main(["check", "gateway", "--config", str(file)]) == 2
    assert re.search(rf"^{re.escape(str(file))}:[3-9]:\d+: error: {code}: .+ Fix: .+\.$", capsys.readouterr().err, re.MULTILINE)


def test_a_relay_has_a_name_of_its_own_unless_one_is_given(tmp_path: Path) -> None:
    for name, expected in (("", "robin-relay"), ("\n  name: other", "other")):
        limits = "\n  limits: {connections: 10, tunnels: 5, tunnels_per_caller: 5}\n  timeouts: {connect: 1s}"
        settings, found = load(tmp_path, PARENT % "" + limits + name)
        assert found == []
        assert settings is not None
        assert settings.parent is not None
        assert (settings.name, settings.parent.token_file, str(settings.parent.origin)) == (expected, "/t", "https://gateway:8081")


def test_a_denial_that_reaches_the_tunnel_too_is_no_conflict(tmp_path: Path) -> None:
    deny = "{name: d, effect: deny, hosts: [a.test], schemes: [https, tcp], ports: [443]}"
    assert load(tmp_path, rules(deny, '{name: t, hosts: ["**"], schemes: [tcp], ports: [443]}'))[1] == []


def test_an_unknown_key_names_the_nearest_and_the_process_ends_with_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "robin.yaml"
    file.write_text("version: 1\ngateway:\n  listenrs: []\n")
    assert main(["check", "gateway", "--config", str(file)]) == 2
    assert ":3:3: error: unknown_key:" in (text := capsys.readouterr().err)
    assert "write listeners" in text


@pytest.mark.parametrize("text", ["version: 1\n", "version: 1\nsidecar: {}\n"])
def test_a_file_without_the_section_is_refused_by_check_and_by_the_start(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str
) -> None:
    file = tmp_path / "robin.yaml"
    file.write_text(text)
    for words in (["check", "gateway"], ["explain", "gateway", "GET", "http://a.test/"], ["gateway"]):
        with pytest.raises(SystemExit) as ended:
            raise SystemExit(main([*words, "--config", str(file)]))
        assert ended.value.code == 2
        assert ":1:1: error: key_missing: there is no section `gateway`. Fix: add" in capsys.readouterr().err


def test_a_key_that_others_can_read_is_refused(tmp_path: Path) -> None:
    assert main(["ca", "init", "--out", str(tmp_path / "ca")]) == 0
    (tmp_path / "ca" / "tls.key").chmod(0o604)
    _, found = load(tmp_path, f"  bridge: {{slots: {{a: {tmp_path}/ca}}}}")
    assert [code for code, _ in found] == ["key_mode"]
    _, found = load(tmp_path, f"  audit: {{checkpoint_key_file: {tmp_path}/ca/tls.key}}")
    assert [code for code, _ in found] == ["key_mode"]
    (tmp_path / "ca" / "tls.key").chmod(0o640)
    assert load(tmp_path, f"  bridge: {{slots: {{a: {tmp_path}/ca}}}}")[1] == []


def test_an_empty_section_is_one_proxy_on_loopback_that_allows_nothing(tmp_path: Path) -> None:  # E1
    settings, found = load(tmp_path, "  name: robin-gateway")
    assert found == []
    assert settings is not None
    assert [str(address) for one in settings.listeners for address in one.addresses] == ["127.0.0.1:8081"]
    assert [str(address) for address in settings.admin] == ["127.0.0.1:9464"]
    assert settings.rules.rules == ()


def test_a_reverse_listener_alone_has_a_port_of_its_own_and_needs_no_ca_for_its_credentials(tmp_path: Path) -> None:
    (tmp_path / "demo.yaml").write_text(DEMO)
    several = routes("path_prefix: /x", "hosts: [b.test]", "hosts: ['*.b.test']", "hosts: ['**.b.test']", "")
    settings, found = load(tmp_path, "  listeners: [{name: r, kind: reverse}]\n" + IDENTITY + PROVIDER % "" + several)
    assert found == []
    assert settings is not None
    (listener,) = settings.listeners
    assert (listener.kind, [str(address) for address in listener.addresses]) == ("reverse", ["127.0.0.1:8080"])
    assert [route.prefix for route in settings.routes] == ["/x", "", "", "", ""]
    assert settings.routes[0].allow == ()
    assert (settings.callers.connections, settings.callers.in_flight, settings.callers.requests_per_s) == (256, 256, 0)


def test_equal_hosts_are_equal_however_they_are_written(tmp_path: Path) -> None:  # E13
    hosts = "hosts: [API.Example.COM., bücher.example]"
    settings, found = load(tmp_path, rules(f"{{name: r, {hosts}}}") + "\n" + routes(f"{hosts}, upstream: 'https://API.Example.COM'"))
    assert found == []
    assert settings is not None
    for pattern in (settings.rules.rules[0].hosts, settings.routes[0].hosts):
        assert [host.text for host in pattern] == ["api.example.com", "xn--bcher-kva.example"]
    assert settings.routes[0].origin.authority == b"api.example.com"


@pytest.mark.parametrize(
    ("section", "message"),
    [
        (
            rules("{name: r, effect: deny, hosts: [a.test], callers: [lcoal]}"),
            'no caller has the name "lcoal". Fix: write local (the nearest)',
        ),
        ("  callers: {agents: ['k8s:a/b']}\n" + rules("{name: r, hosts: [a.test], callers: [agent]}"), "Fix: write agents (the nearest)"),
        ("  callers: {agents: [claude]}\n" + rules("{name: r, hosts: [a.test], callers: [agents]}"), "Fix: add the name to `callers`"),
        (rules("{name: r, hosts: [a.test], callers: [local, open, '*', 'unix:7', 'cn:x', 'jwt:i/*', 'spiffe://t/**']}"), ""),
    ],
)
def test_a_caller_that_no_connection_can_have_is_a_warning_and_its_rule_stays(tmp_path: Path, section: str, message: str) -> None:
    file = tmp_path / "robin.yaml"
    file.write_text(f"version: 1\ngateway:\n{section}\n")
    settings, found = load_gateway(str(file))
    assert settings is not None
    assert [rule.name for rule in settings.rules.rules] == ["r"]
    assert [(one.code, one.severity) for one in found] == ([("caller_unknown", "warning")] if message else [])
    assert message in " ".join(map(str, found))


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ("  listeners: [{name: p, kind: revers}]", "Fix: use proxy or reverse."),
        (rules("{name: r, hosts: ['a.example:443']}"), "a host has no port; the `ports` of the rule are its ports"),
        (rules("{name: r, hosts: ['https://pypi.org']}"), "leave out https://"),
        ("  profiles: ['p/*.yaml']", "profiles_none"),
        ("  profiles: ['p/*.yaml']", 'no file matches "p/*.yaml". Fix: correct it'),
        (rules("{name: A B, hosts: [a.test]}"), '"A B" is no name. Fix: use a-z, 0-9 and -'),
        ("  listeners: [{name: p, unix_mode: '888'}]", '"888" is no file mode'),
        ("  addresses: {hosts: {x.test: []}}", "robin.yaml:3:31: error: value_invalid: x.test has no address. Fix: write IP addresses,"),
        (
            "  addresses: {hosts: {x.test: [10.0.0.1], X.test.: [10.0.0.2]}}",
            "robin.yaml:3:52: error: value_invalid: the name x.test stands here twice, in two spellings. Fix: keep one of them",
        ),
    ],
)
def test_the_message_of_a_mistake_names_it(tmp_path: Path, section: str, message: str) -> None:
    (tmp_path / "robin.yaml").write_text(f"version: 1\ngateway:\n{section}\n")
    assert message in " ".join(map(str, load_gateway(str(tmp_path / "robin.yaml"))[1]))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["CONNECT", "api.test"], "robin: CONNECT has no default port; write HOST:PORT"),
        (["--caller", "bob", "CONNECT", "api.test:443"], 'robin: warning: caller_unknown: no caller has the id "bob"'),
        (["--caller", "k8s:a/b", "CONNECT", "api.test:443"], ""),
        (["https://pypi.org/"], "robin: METHOD is missing; write robin explain gateway GET https://pypi.org/"),
        (["pypi.org:443"], "robin: METHOD is missing; write robin explain gateway CONNECT pypi.org:443"),
        (["GET"], "robin: the target is missing; write robin explain gateway GET and a URL"),
        (["get", "https://pypi.org/"], 'robin: "get" is no method; write it in upper case'),
        (["https://pypi.org/", "GET"], 'robin: "https://pypi.org/" is no method; METHOD comes before the target'),
    ],
)
def test_explain_names_what_is_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str) -> None:
    load(tmp_path, rules("{name: r, hosts: [api.test]}"))
    main(["explain", "gateway", "--config", str(tmp_path / "robin.yaml"), *words])
    error = capsys.readouterr().err
    assert error.startswith(message) if message else error == ""


REACH = """
  policy:
    mode: MODE
    rules:
      - name: all
        hosts: ["**", 127.0.0.1, "::1", 169.254.169.254, 8.8.8.8, 10.1.2.5]
        schemes: [http]
        ports: [80, 9000]
        methods: [GET]
      - {name: near, hosts: [10.1.2.3, near.test], schemes: [http], private: [10.1.0.0/16], methods: [GET]}
  bridge: {slots: {a: CA}}
  timeouts: {dns: 100ms}
  addresses:
    resolver: ["127.0.0.1:1"]
    hosts: {near.test: [10.1.2.4], far.test: [10.9.9.9], two.test: [10.9.9.9, 192.0.78.1]}
    unsafe_loopback: ["127.0.0.1:9000"]
  routes:
    - {name: far, hosts: [gw.test], upstream: "https://far.test"}
    - {name: near, hosts: [gw.test], path_prefix: /near, upstream: "https://near.test", private: [10.1.0.0/16]}
"""
LOOPBACK = "loopback: the address is this machine's; for development `addresses.unsafe_loopback` opens one address and port"


@pytest.mark.parametrize(
    ("mode", "words", "code", "detail"),
    [
        ("enforce", ["GET", "http://127.0.0.1/"], "address_refused", LOOPBACK),
        ("enforce", ["GET", "http://127.0.0.1:9000/"], "", ""),
        ("enforce", ["CONNECT", "[::1]:80"], "address_refused", LOOPBACK),
        ("enforce", ["GET", "http://169.254.169.254/"], "address_refused", "metadata: "),
        ("enforce", ["GET", "http://8.8.8.8/", "--resolve"], "", ""),
        ("enforce", ["GET", "http://10.1.2.3/"], "", ""),
        ("enforce", ["GET", "http://10.1.2.5/"], "address_refused", "private: the network of the address is not in `private` of a rule"),
        ("enforce", ["GET", "http://near.test/"], "", ""),
        ("enforce", ["GET", "http://far.test/"], "address_refused", "private: "),
        ("enforce", ["GET", "http://two.test/"], "", ""),
        ("enforce", ["GET", "http://nowhere.invalid/"], "", ""),
        ("enforce", ["GET", "http://nowhere.invalid/", "--resolve"], "dns_timeout", ""),
        ("enforce", ["POST", "http://10.1.2.3/", "--resolve"], "rule_default", ""),
        ("report", ["POST", "http://10.1.2.3/"], "", ""),
        ("report", ["POST", "http://127.0.0.1/"], "address_refused", LOOPBACK),
        ("report", ["CONNECT", "127.0.0.1:22"], "address_refused", LOOPBACK),
        ("report", ["--reverse", "GET", "http://gw.test/x"], "address_refused", "private: "),
        ("report", ["--reverse", "GET", "http://gw.test/near"], "", ""),
    ],
)
def test_explain_refuses_the_addresses_that_the_gateway_refuses(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], mode: str, words: list[str], code: str, detail: str
) -> None:
    assert main(["ca", "init", "--out", str(tmp_path / "ca")]) == 0
    assert load(tmp_path, REACH.replace("MODE", mode).replace("CA", str(tmp_path / "ca")))[1] == []
    capsys.readouterr()
    command = ["explain", "gateway", "--config", str(tmp_path / "robin.yaml"), *words]
    assert main([*command, "--json"]) == (4 if code else 0)
    found = json.loads(capsys.readouterr().out)
    verdict = "permit" if not code else "failed" if code.startswith("dns_") else "deny"
    assert (found["verdict"], found["code"], found["detail"][: len(detail)]) == (verdict, code, detail)
    assert main(command) == (4 if code else 0)
    assert capsys.readouterr().out.startswith(f"{verdict} {code}".strip())


@pytest.mark.parametrize(
    ("words", "code", "verdict"),
    [
        (["GET", "https://API.test/v1/x"], 0, ("permit", "")),
        (["CONNECT", "api.test:443"], 0, ("permit", "")),
        (["GET", "https://api.test/other"], 4, ("deny", "rule_default")),
        (["GET", "https://api.test/a/../v1"], 5, None),
        (["GET", "https://127.1/"], 5, None),
        (["GET", "ftp://api.test/"], 2, None),
    ],
)
def test_explain_says_what_is_decided(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], code: int, verdict: tuple[str, str] | None
) -> None:
    assert main(["ca", "init", "--out", str(tmp_path / "ca")]) == 0
    capsys.readouterr()
    load(tmp_path, rules('{name: r, hosts: [api.test], paths: ["/v1/**"]}') + f"\n  bridge: {{slots: {{a: {tmp_path}/ca}}}}")
    assert main(["explain", "gateway", "--config", str(tmp_path / "robin.yaml"), "--json", *words]) == code
    if verdict is not None:
        found = json.loads(capsys.readouterr().out)
        assert (found["verdict"], found["code"]) == verdict
        assert found["tls"] == "bridge"


OF_A_POD = """  listeners: [{name: p, listen: "0.0.0.0:8081", auth: mtls, tls: {cert_file: AT/tls.crt, key_file: AT/tls.key},
               mtls: {ca_file: AT/clients.crt, trust_domains: [td]}}]
  bridge: {slots: {a: AT}}
  audit: {file: AT/audit.jsonl, checkpoint_key_file: AT/key.pem}
"""


def test_files_that_are_elsewhere_are_warnings_where_that_is_asked_for_and_open_keys_errors(tmp_path: Path) -> None:
    file, mounted = tmp_path / "robin.yaml", tmp_path / "mounted"
    file.write_text(f"version: 1\ngateway:\n{OF_A_POD.replace('AT', str(mounted))}")
    settings, found = load_gateway(str(file))
    assert (settings, {one.severity for one in found}) == (None, {"error"})
    settings, found = load_gateway(str(file), files_elsewhere=True)
    assert settings is not None
    assert [(one.code, one.severity, one.at.line) for one in found] == [("file_missing", "warning", line) for line in (3, 5, 6, 6)]
    mounted.mkdir()
    for name in ("tls.key", "key.pem"):
        (mounted / name).touch(mode=0o644)
    settings, found = load_gateway(str(file), files_elsewhere=True)
    assert (settings, [(one.code, one.severity) for one in found]) == (None, [("key_mode", "error")] * 3)


@pytest.mark.slow
@pytest.mark.parametrize(("count", "found"), [(16_384, []), (16_385, [("value_invalid", 3)])])
def test_thousands_of_rules_are_taken_up_to_a_limit(tmp_path: Path, count: int, found: list[tuple[str, int]]) -> None:
    written = json.dumps([{"name": f"r{at}", "hosts": [f"h{at}.test"]} for at in range(count)])
    settings, said = load(tmp_path, f"  policy: {{rules: {written}}}")
    assert said == found
    assert found or (settings is not None and len(settings.rules.rules) == count)

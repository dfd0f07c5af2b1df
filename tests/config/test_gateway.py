"""The gateway's section of robin.yaml: each load error by one file, with its code and position, and what the defaults are."""

import json
from pathlib import Path

import pytest

from robin.cli.gateway_file import load_gateway
from robin.cli.main import main
from robin.planes.gateway.settings import GatewaySettings

RULE = "{name: r, hosts: [a.test]%s}"


def load(folder: Path, section: str) -> tuple[GatewaySettings | None, list[tuple[str, int]]]:
    """The settings, and code and line of each diagnostic. The section begins on line 3."""
    file = folder / "robin.yaml"
    file.write_text(f"version: 1\ngateway:\n{section}\n")
    settings, found = load_gateway(str(file))
    return settings, [(one.code, one.at.line) for one in found]


def rules(*texts: str) -> str:
    return "  policy:\n    rules:\n" + "\n".join(f"      - {text}" for text in texts)


ERRORS = [
    ("unknown_key", '  nmae: x'),
    ("not_supported", "  providers: []"),
    ("not_supported", "  routes: []"),
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
    ("bridge_required", rules("{name: r, hosts: [a.test], methods: [GET]}")),
    ("passthrough_blind", rules('{name: r, hosts: [a.test], paths: ["/x"], tls: passthrough}')),
    ("private_needs_exact_host", rules('{name: r, hosts: ["*.a.test"], private: [10.1.0.0/16]}')),
    ("private_cidr", rules("{name: r, hosts: [a.test], private: [127.0.0.0/8]}")),
    ("private_cidr", rules("{name: r, hosts: [a.test], private: [0.0.0.0/0]}")),
    ("self_target", '  addresses: {unsafe_loopback: ["127.0.0.1:8081"]}'),
    ("ca_invalid", "  bridge: {slots: {a: /nowhere}}"),
    ("value_invalid", "  limits: {tunnels: many}"),
]  # fmt: skip


@pytest.mark.parametrize(("code", "section"), ERRORS, ids=[f"{code}-{index}" for index, (code, _) in enumerate(ERRORS)])
def test_each_error_has_its_code_and_its_line(tmp_path: Path, code: str, section: str) -> None:  # E18
    settings, found = load(tmp_path, section)
    assert settings is None
    assert code in [name for name, _ in found]
    assert all(line >= 3 for _, line in found)


def test_an_unknown_key_names_the_nearest_and_the_process_ends_with_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "robin.yaml"
    file.write_text("version: 1\ngateway:\n  listenrs: []\n")
    assert main(["check", "gateway", "--config", str(file)]) == 2
    assert ":3:3: error: unknown_key:" in (text := capsys.readouterr().err)
    assert "write listeners" in text


def test_a_key_that_others_can_read_is_refused(tmp_path: Path) -> None:
    assert main(["ca", "init", "--out", str(tmp_path / "ca")]) == 0
    (tmp_path / "ca" / "tls.key").chmod(0o604)
    _, found = load(tmp_path, f"  bridge: {{slots: {{a: {tmp_path}/ca}}}}")
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


def test_equal_hosts_are_equal_however_they_are_written(tmp_path: Path) -> None:  # E13
    settings, found = load(tmp_path, rules("{name: r, hosts: [API.Example.COM., bücher.example]}"))
    assert found == []
    assert settings is not None
    assert [host.text for host in settings.rules.rules[0].hosts] == ["api.example.com", "xn--bcher-kva.example"]


def test_ca_init_writes_three_files_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ca", "init", "--out", str(tmp_path / "ca")]) == 0
    key = (tmp_path / "ca" / "tls.key").read_bytes()
    assert {file.name: file.stat().st_mode & 0o777 for file in (tmp_path / "ca").iterdir()} == {
        "tls.key": 0o600,
        "tls.crt": 0o644,
        "ca.crt": 0o644,
    }
    assert main(["ca", "init", "--out", str(tmp_path / "ca")]) == 1
    assert (tmp_path / "ca" / "tls.key").read_bytes() == key
    assert main(["ca", "fingerprint", str(tmp_path / "ca" / "ca.crt"), "--expect", str(tmp_path / "ca" / "ca.crt")]) == 0
    assert "subject CN=robin-bridge-ca-" in capsys.readouterr().out


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

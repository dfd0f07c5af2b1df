"""`robin explain kube`, `kubeconfig`, `check kube`, `schema kube` and the demonstration; bad settings are refused with exit 2."""

import base64
import json
import os
import re
import stat
from pathlib import Path

import pytest

from robin.cli.main import main
from robin.config.kube import KubeRefused, load_kube
from robin.planes.kube.faults import FROM_ENGINE, KUBE_FAULTS, STATUS_REASONS

POLICY = """
version: 1
agents:
  a:
    identities: [token]
    rules:
      - {name: look, namespaces: ["*"], cluster_scope: true, nonresource: ["*"], tiers: {0: allow}}
      - {name: work, namespaces: [shop], groups: ["", apps], tiers: {1: allow}, runbooks: [scale], max_session: 2m}
runbooks:
  scale: {operations: [{verbs: [patch], resources: [deployments/scale], only_paths: [/spec/replicas]}]}
"""
DOCS = Path(__file__).parents[3] / "docs"


@pytest.fixture
def policy(tmp_path: Path) -> str:
    path = tmp_path / "policy.yaml"
    path.write_text(POLICY)
    return str(path)


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("GET", "/api/v1/namespaces/shop/pods", "--agent", "a"), 0),
        (("GET", "https://robin:6444/api/v1/pods?watch", "--agent", "a"), 0),
        (("GET", "/api/v1/namespaces/shop/secrets", "--agent", "a"), 4),
        (("GET", "/api/v1/namespaces/shop/pods", "--agent", "b"), 4),
        (("GET", "/api/v1/namespaces//secrets", "--agent", "a"), 5),
        (("GET", "/api/v1/pods", "--agent", "a", "--header", "Impersonate-User: x"), 5),
        (("GET", "/api/v1/pods", "--header", "x"), 2),
    ],
)
def test_explain_gives_the_decision_as_its_exit_code(policy: str, words: tuple[str, ...], code: int, capsys):
    assert main(["explain", "kube", *words, "--policy", policy]) == code


def test_explain_uses_the_names_of_the_audit(policy: str, capsys):
    main(["explain", "kube", "GET", "/api/v1/namespaces/shop/pods/web/log", "--agent", "a", "--policy", policy, "--json"])
    found = json.loads(capsys.readouterr().out)
    assert (found["verb"], found["resource"], found["subresource"], found["name"]) == ("get", "pods", "log", "web")
    assert (found["tier"], found["decision"], found["rule"], found["account"]) == (0, "allow", "look", "robin-agent")
    assert found["rules"]["look"] == "matches: allow"


@pytest.mark.parametrize("auth", ["cert", "token"])
def test_a_kubeconfig_holds_robins_ca_and_no_cluster_credential(tmp_path: Path, auth: str, capsys):
    out = tmp_path / "config"
    words = ["kubeconfig", "--agent", "a", "--auth", auth, "--state-dir", str(tmp_path / "state"), "--out", str(out), "--namespace", "shop"]
    assert main(words) == 0
    config = json.loads(out.read_text())
    assert stat.S_IMODE(os.stat(out).st_mode) == 0o600
    assert base64.b64decode(config["clusters"][0]["cluster"]["certificate-authority-data"]) == (tmp_path / "state" / "ca.pem").read_bytes()
    assert config["current-context"] == "robin-a"
    assert set(config["users"][0]["user"]) == ({"client-certificate-data", "client-key-data"} if auth == "cert" else {"token"})
    assert main(words) == 2
    assert main([*words, "--force"]) == 0


BAD = [
    ("kube: {nonsense: 1}", "robin.yaml:2:8:", "unknown_key"),
    ("kube: {credentials: {jit: {mint: always}}}", "kube.credentials.jit.mint", "value_invalid"),
    ("kube: {credentials: {jit: {mint: reuse}}}", "credentials.jit.mint", "not_supported"),
    ("kube: {credentials: {mode: static}}", "credentials.mode", "not_supported"),
    ("kube: {credentials: {jit: {ttl: 59s}}}", "ttl", "below 60s"),
    ("kube: {credentials: {jit: {ttl: 3601s}}}", "ttl", "max_ttl"),
    ("kube: {cluster: {url: http://x}}", "cluster.url", "https"),
    ("kube: {listen: 0.0.0.0:6444}", "listen", "tls.cert_file"),
    ("kube: {forward_headers: [Impersonate-User]}", "forward_headers", "never forwarded"),
    ("kube: {policy: {version: 1, default: allow, agents: {}}}", "default", "value_invalid"),
    (
        'kube: {policy: {version: 1, agents: {a: {rules: [{name: x, namespaces: ["*"], tiers: {4: escalate}}]}}}}',
        "agents.a.rules.x",
        "not_supported",
    ),
    ("kube: {policy: {version: 1, agents: {a: {rules: [{name: x, tiers: {0: allow}}]}}}}", "agents.a.rules.x", "applies nowhere"),
    ('kube: {policy: {version: 1, agents: {a: {identities: ["jwt:x|y"]}}}}', "identities", "not_supported"),
    ("kube: {policy: {version: 1, agents: {}, runbooks: {r: {max_tier: 4}}}}", "max_tier", "above 3"),
]


@pytest.mark.parametrize(("section", "key", "text"), BAD, ids=[case[0][:60] for case in BAD])
def test_bad_settings_are_refused_with_their_place_key_and_fix(tmp_path: Path, policy: str, section: str, key: str, text: str, capsys):
    config = tmp_path / "robin.yaml"
    config.write_text(f"version: 1\n{section}\n")
    with pytest.raises(KubeRefused) as refused:
        load_kube(str(config), {} if "policy:" in section else {"policy": policy}, {"HOME": str(tmp_path)})
    lines = "\n".join(refused.value.errors)
    assert key in lines
    assert text in lines


@pytest.mark.parametrize("ttl", ["59s", "3601s", "1"])
def test_a_bad_flag_is_exit_2(policy: str, ttl: str, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["kube", "--policy", policy, "--jit-ttl", ttl])
    assert ended.value.code == 2
    assert "ttl" in capsys.readouterr().err


def test_check_and_schema_know_the_section(tmp_path: Path, policy: str, capsys):
    config = tmp_path / "robin.yaml"
    config.write_text(f"version: 1\nkube:\n  policy_file: {policy}\n")
    assert main(["check", "kube", "--config", str(config), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["settings"]["agents"] == "a"
    assert main(["schema", "kube"]) == 0
    assert "credentials" in json.loads(capsys.readouterr().out)["properties"]
    config.write_text("version: 1\nkube: {}\n")
    assert main(["check", "kube", "--config", str(config)]) == 2


def test_the_demonstration_passes(capfd):
    assert main(["up", "--demo", "kube"]) == 0
    assert capfd.readouterr().out.splitlines()[-1] == "demo kube: PASS 9/9"


def test_the_page_lists_every_code_with_its_status_and_reason():
    page = (DOCS / "reference" / "kube.md").read_text()
    rows = {f"| `{code}` | {kind.status} | {STATUS_REASONS[code]} |" for code, kind in KUBE_FAULTS.items()}
    assert {row for row in rows if row not in page} == set()
    assert page.count("| `kube.") == len(KUBE_FAULTS)
    assert set(FROM_ENGINE.values()) <= KUBE_FAULTS.keys()


def test_the_tutorial_is_what_happens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd):
    page = (DOCS / "tutorials" / "kube.md").read_text()
    monkeypatch.chdir(tmp_path)
    Path("policy.yaml").write_text(re.search(r"```yaml\n(.*?)```", page, re.DOTALL)[1])
    for block in re.findall(r"```console\n\$ .venv/bin/robin (.*?)```", page, re.DOTALL):
        command, _, shown = block.partition("\n")
        assert main(command.split()) == 0
        said = capfd.readouterr().out
        volatile = re.compile(r"127\.0\.0\.1:[0-9]+|[0-9a-f]{8}-[0-9a-f-]{27}")
        assert volatile.sub("X", said) == volatile.sub("X", shown)

"""`robin explain kube`, `kubeconfig`, `check kube`, `schema kube` and the demonstration; bad settings are refused with exit 2."""

import asyncio
import base64
import http.client
import json
import os
import re
import shlex
import ssl
import stat
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from robin.cli.main import main
from robin.config.kube import load_kube
from robin.config.kube_policy import POLICY as POLICY_SCHEMA
from robin.config.kube_policy import KubeRefused
from robin.model.kube_faults import FROM_ENGINE, KUBE_FAULTS, STATUS_REASONS
from robin.planes.kube.state import StateFolder
from robin.testing.process import RobinProcess
from robin.testing.waiting import eventually
from robin.transport.clock import SystemClock

POLICY = """
version: 1
agents:
  a:
    identities: [token]
    rules:
      - {name: look, namespaces: ["*"], cluster_scope: true, nonresource: ["*"], tiers: {0: allow}}
      - {name: work, namespaces: [shop], groups: ["", apps], tiers: {1: allow}, runbooks: [scale], max_session: 2m}
      - {name: past, namespaces: [shop], tiers: {0: allow}, expires: "2020-01-01T00:00:00Z"}
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


def test_explain_shows_the_account_and_when_a_session_ends(policy: str, capsys):
    main(["explain", "kube", "GET", "/api/v1/namespaces/shop/pods?watch=1", "--agent", "a", "--policy", policy])
    assert capsys.readouterr().out.splitlines()[-2:] == ["account   robin-agent", "session   ends with its token"]


def test_explain_uses_the_names_of_the_audit(policy: str, capsys):
    main(["explain", "kube", "GET", "/api/v1/namespaces/shop/pods/web/log", "--agent", "a", "--policy", policy, "--json"])
    found = json.loads(capsys.readouterr().out)
    assert (found["verb"], found["resource"], found["subresource"], found["name"]) == ("get", "pods", "log", "web")
    assert (found["tier"], found["decision"], found["rule"], found["account"]) == (0, "allow", "look", "robin-agent")
    assert found["rules"] == {
        "look": "matches: allow",
        "work": "no match: the rule says nothing about tier 0",
        "past": "no match: the rule has expired",
    }


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """A state folder, as `robin kube` makes it."""
    return StateFolder(tmp_path / "state", SystemClock().wall()).path


@pytest.mark.parametrize("auth", ["cert", "token"])
def test_a_kubeconfig_holds_robins_ca_and_no_cluster_credential(tmp_path: Path, state: Path, auth: str, capsys):
    out = tmp_path / "config"
    words = ["kubeconfig", "--agent", "a", "--auth", auth, "--state-dir", str(state), "--out", str(out), "--namespace", "shop"]
    assert main(words) == 0
    assert capsys.readouterr().out == f"{out}: a {'certificate' if auth == 'cert' else 'token'} of a, from {state}\n"
    config = json.loads(out.read_text())
    assert stat.S_IMODE(os.stat(out).st_mode) == 0o600
    assert base64.b64decode(config["clusters"][0]["cluster"]["certificate-authority-data"]) == (tmp_path / "state" / "ca.pem").read_bytes()
    assert config["current-context"] == "robin-a"
    assert set(config["users"][0]["user"]) == ({"client-certificate-data", "client-key-data"} if auth == "cert" else {"token"})
    assert main(words) == 2
    (tmp_path / "other.pem").write_bytes(b"other")
    assert main([*words, "--force", "--ca-file", str(tmp_path / "other.pem")]) == 0
    config = json.loads(out.read_text())
    assert base64.b64decode(config["clusters"][0]["cluster"]["certificate-authority-data"]) == b"other"


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        (("--state-dir", "{typo}"), "{typo}: this is no state folder of `robin kube`; start `robin kube` first"),
        (("--lifetime", "10"), '--lifetime: "10" has no unit; write 10s'),
        (("--lifetime", "9999h"), '--lifetime: "9999h" is above 720h; '),
        (("--ca-file", "{typo}"), "{typo}: No such file or directory; name a file"),
        (("--out", "{typo}/file"), "--out: there is no folder {typo}; make it first"),
    ],
)
def test_a_kubeconfig_that_cannot_be_written_says_why_and_makes_nothing(tmp_path: Path, state: Path, words, shown: str, capsys):
    typo = str(tmp_path / "typo")
    assert main(["kubeconfig", "--agent", "a", "--state-dir", str(state), *(word.format(typo=typo) for word in words)]) == 2
    assert f"robin kubeconfig: {shown.format(typo=typo)}" in capsys.readouterr().err
    assert not Path(typo).exists()


def test_a_ca_key_that_everyone_can_read_is_refused_everywhere(tmp_path: Path, policy: str, state: Path, capsys):
    (state / "ca.key").chmod(0o644)
    config = tmp_path / "robin.yaml"
    config.write_text(f"version: 1\nkube: {{policy_file: {policy}, state_dir: {state}}}\n")
    assert main(["kubeconfig", "--agent", "a", "--state-dir", str(state)]) == 2
    assert "ca.key: key_mode: everyone can read or write this private key; chmod 0600 it" in capsys.readouterr().err
    assert main(["check", "kube", "--config", str(config)]) == 2
    with pytest.raises(SystemExit) as ended:
        main(["kube", "--config", str(config)])
    assert ended.value.code == 2
    assert capsys.readouterr().err.count("robin.yaml:2:") == 2


def test_a_kubeconfig_sends_its_credential_over_tls_only_and_no_token_spoils_another(tmp_path: Path, state: Path, capsys):
    words = ["kubeconfig", "--agent", "a", "--auth", "token", "--state-dir", str(state)]
    for server in ("http://127.0.0.1:6444", "127.0.0.1:6444", "https://", "https://u:p@127.0.0.1:6444"):
        assert main([*words, "--server", server]) == 2
        assert "--server" in capsys.readouterr().err
    assert main(words) == 0
    tokens = tmp_path / "state" / "tokens.jsonl"
    tokens.write_text(tokens.read_text().rstrip("\n"))  # as an editor leaves it
    assert main(words) == 0
    assert [json.loads(line)["agent"] for line in tokens.read_text().splitlines()] == ["a", "a"]


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
    ("kube: {forward_headers: [Host]}", "forward_headers", "never forwarded"),
    ("kube: {streams: {max_session: ever}}", "streams.max_session", "value_invalid"),
    ("kube: {limits: {rps: 5}}", "rps", "unknown_key"),
    ("kube: {approval: {wait: 60s}}", "approval", "unknown_key"),
    ("kube: {cluster: {tls_server_name: x}}", "tls_server_name", "unknown_key"),
    ("kube: {authn: {bearer: {jwt: []}}}", "jwt", "unknown_key"),
    ("kube: {policy: {version: 1, default: allow, agents: {}}}", "default", "value_invalid"),
    (
        'kube: {policy: {version: 1, agents: {a: {rules: [{name: x, namespaces: ["*"], tiers: {4: escalate}}]}}}}',
        "agents.a.rules.x",
        "not_supported",
    ),
    ("kube: {policy: {version: 1, agents: {a: {rules: [{name: x, tiers: {0: allow}}]}}}}", "agents.a.rules.x", "applies nowhere"),
    ('kube: {policy: {version: 1, agents: {a: {identities: ["jwt:x|y"]}}}}', "identities", "not_supported"),
    ("kube: {policy: {version: 1, agents: {}, runbooks: {r: {max_tier: 4}}}}", "max_tier", "above 3"),
    (
        "kube: {policy: {version: 1, agents: {a: {identities: [tokn]}}}}",
        "robin.yaml:2:55: error: value_invalid",
        "write token (the nearest)",
    ),
    ('kube: {policy: {version: 1, agents: {a: {identities: ["spiffe://X/y"]}}}}', "identities", "is not a SPIFFE ID"),
    ("kube: {policy: {version: 1, agents: {a: {rules: [{name: x, verbs: [gett]}]}}}}", "verbs", "write get (the nearest)"),
    ('kube: {policy: {version: 1, agents: {a: {identities: ["cn:x"]}, b: {identities: ["cn:x"]}}}}', "robin.yaml:2:82:", "belongs to a"),
    (
        "kube: {policy_file: nope}",
        "robin.yaml:2:21: error: policy_file: value_invalid: nope: cannot read the file: No such file",
        "name a readable file",
    ),
    ("kube: {policy: null}", "robin.yaml:2:7: error: policy_file: key_missing", "--policy FILE"),
]


@pytest.mark.parametrize(("section", "key", "text"), BAD, ids=[case[0][:60] for case in BAD])
def test_bad_settings_are_refused_with_their_place_key_and_fix(tmp_path: Path, policy: str, section: str, key: str, text: str, capsys):
    config = tmp_path / "robin.yaml"
    config.write_text(f"version: 1\n{section}\n")
    with pytest.raises(KubeRefused) as refused:
        load_kube(str(config), {} if "policy" in section else {"policy": policy}, {"HOME": str(tmp_path)})
    lines = "\n".join(refused.value.errors)
    assert key in lines
    assert text in lines


@pytest.mark.parametrize(
    ("key", "mode"),
    [("bootstrap.key_file", 0o604), ("bootstrap.key_file", 0o640), ("bootstrap.token_file", 0o646), ("bootstrap.token_file", 0o644)],
)
def test_a_secret_that_everyone_can_read_or_write_is_refused(tmp_path: Path, policy: str, key: str, mode: int, capsys):
    secret = tmp_path / "secret"
    secret.write_text("x")
    secret.chmod(mode)
    both = f"cert_file: {secret}, key_file: {secret}" if "key" in key else f"token_file: {secret}"
    config = tmp_path / "robin.yaml"
    config.write_text(f"version: 1\nkube: {{policy_file: {policy}, cluster: {{bootstrap: {{{both}}}}}}}\n")
    good = mode in (0o640, 0o644)
    assert main(["check", "kube", "--config", str(config)]) == (0 if good else 2)
    assert (f"cluster.{key}" in capsys.readouterr().err) is not good


@pytest.mark.parametrize("which", ["robin.yaml", "policy.yaml"])
def test_a_policy_and_robin_yaml_are_regular_files_that_not_everyone_can_write(tmp_path: Path, policy: str, which: str, capsys):
    config = tmp_path / "robin.yaml"
    config.write_text(f"version: 1\nkube: {{policy_file: {policy}}}\n")
    (tmp_path / which).chmod(0o666)
    assert main(["check", "kube", "--config", str(config)]) == 2
    assert f"{which}: the file is world-writable" in capsys.readouterr().err
    (tmp_path / which).unlink()
    os.mkfifo(tmp_path / which)
    assert main(["check", "kube", "--config", str(config)]) == 2
    assert f"{which}: the file is not a regular file" in capsys.readouterr().err


@pytest.mark.parametrize("ttl", ["59s", "3601s", "1"])
def test_a_bad_flag_is_exit_2(policy: str, ttl: str, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["kube", "--policy", policy, "--jit-ttl", ttl])
    assert ended.value.code == 2
    assert "ttl" in capsys.readouterr().err


def test_check_and_schema_know_the_section(tmp_path: Path, policy: str, capsys):
    config = tmp_path / "robin.yaml"
    classify = "tiers: {classify: [{group: example.org, resources: [a, b], read: 0, write: 2, delete: 3}]}"
    config.write_text(f"version: 1\nkube:\n  policy_file: {policy}\n  {classify}\n")
    assert main(["check", "kube", "--config", str(config), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["settings"]["agents"] == "a"
    assert main(["check", "kube", "--config", str(config)]) == 0
    shown = dict(line.split(None, 1) for line in capsys.readouterr().out.splitlines())
    assert (shown["jit.service_account"], shown["jit.ttl_s"], shown["cn"], shown["tls_cert_file"]) == (
        "robin-agent",
        "300",
        "false",
        "unset",
    )
    assert shown["tiers.classify"] == "example.org/a|b: read 0 write 2 delete 3"
    assert main(["schema", "kube"]) == 0
    assert "credentials" in json.loads(capsys.readouterr().out)["properties"]
    config.write_text("version: 1\nkube: {}\n")
    assert main(["check", "kube", "--config", str(config)]) == 2


async def test_the_demonstration_that_is_kept_serves_what_it_prints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    async with RobinProcess("up", "--demo", "kube", "--keep") as up:
        await eventually(lambda: "it stays up until Ctrl-C" in up.stdout)
        assert "demo kube: PASS 9/9" in up.stdout
        curls = [shlex.split(line) for line in up.stdout if line.startswith("curl ")]
        assert [await asyncio.to_thread(_status_of, words) for words in curls] == [200, 403]
        command = next(shlex.split(line) for line in up.stdout if line.startswith("robin kubeconfig "))
        assert main(command[1:]) == 0
        assert json.loads(Path("agent.kubeconfig").read_text())["clusters"][0]["cluster"]["server"] in curls[0][-1]


def _status_of(curl: list[str]) -> int:
    """The status that a curl line gets."""
    url = urlsplit(curl[-1])
    context = ssl.create_default_context(cafile=curl[curl.index("--cacert") + 1])
    context.load_cert_chain(curl[curl.index("--cert") + 1])
    connection = http.client.HTTPSConnection(url.netloc, context=context, timeout=20)
    connection.request(curl[curl.index("-X") + 1] if "-X" in curl else "GET", url.path)
    status = connection.getresponse().status
    connection.close()
    return status


def test_the_page_lists_every_code_with_its_status_and_reason():
    page = (DOCS / "reference" / "kube.md").read_text()
    rows = {f"| `{code}` | {kind.status} | {STATUS_REASONS[code]} |" for code, kind in KUBE_FAULTS.items()}
    assert {row for row in rows if row not in page} == set()
    assert page.count("| `kube.") == len(KUBE_FAULTS)
    assert set(FROM_ENGINE.values()) <= KUBE_FAULTS.keys()


def test_the_page_lists_every_key_of_a_policy_and_its_rules_allow_what_it_says(tmp_path: Path, capsys):
    page = (DOCS / "reference" / "kube.md").read_text()
    agents, runbooks = (next(field.schema for field in POLICY_SCHEMA.fields if field.name == name) for name in ("agents", "runbooks"))
    rules = next(field.schema.item for field in agents.value.fields if field.name == "rules")
    keys = {f"| `rules[].{field.name}` |" for field in rules.fields} | {f"| `runbooks.NAME.{field.name}" for field in runbooks.value.fields}
    keys |= {f"| `agents.NAME.{field.name}` |" for field in agents.value.fields if field.name != "rules"}
    assert {key for key in keys if key not in page} == set()

    snippet = page.partition("### Two common denials")[2]
    narrow = re.search(r"`(\{name: look.*?\}\})`", snippet)[1]
    requests = re.findall(r"\| `(GET|POST) (/\S+)` \|", snippet)
    wide, alone = re.findall(r"```yaml\n *- (.*?)\n```", snippet)[:2]
    policy = tmp_path / "policy.yaml"
    decided = []
    for rule in (narrow, wide, alone):
        policy.write_text(f"version: 1\nagents:\n  a:\n    rules:\n      - {rule}\n")
        decided.append([main(["explain", "kube", *request, "--agent", "a", "--policy", str(policy)]) for request in requests])
    assert decided == [[4, 4], [0, 0], [4, 0]]


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

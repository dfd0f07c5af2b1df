"""`robin doctor egress` beside a real relay and a real gateway: it names each thing that is missing, stale or open (item E69)."""

import asyncio
import json
import re
import ssl
from pathlib import Path
from typing import Any

import pytest
from tests.cli.commands.test_wait_egress import accepting, told
from tests.planes.gateway.rig import running
from tests.planes.gateway.test_relay import AUTHORITY, relaying

from robin.cli.doctor_egress import doctor_egress
from robin.cli.findings.egress_environment import look_at_tokens
from robin.cli.main import COMMANDS, main, parser_of
from robin.config.agent_environment import ADDED_ROOTS, PROXY, REPLACED_ROOTS
from robin.testing.certificates import CertificateAuthority
from robin.testing.process import free_port
from robin.transport.clock import SystemClock

Output = pytest.CaptureFixture[str]


async def look(capsys: Output, environ: dict[str, str], *words: str) -> tuple[int, dict[str, list[str]]]:
    """The exit code, and the lines by code."""
    args = parser_of(COMMANDS["doctor"]).parse_args(["egress", *words])
    capsys.readouterr()
    code = await asyncio.to_thread(doctor_egress, args, environ)
    found: dict[str, list[str]] = {}
    for line in capsys.readouterr().out.splitlines():
        health, name, _ = line.split(None, 2)
        assert health in {"ok", "warn", "fail"}
        assert ("; fix: " in line) == (health != "ok"), line
        found.setdefault(f"{health} {name}", []).append(line)
    return code, found


async def test_e69_what_an_agents_pod_lacks_is_named(tmp_path: Path, capsys: Output) -> None:
    keys = tmp_path / "keys.json"
    keys.write_text(json.dumps(AUTHORITY.jwks()))
    issuer = {"issuer": AUTHORITY.issuer, "audiences": ["robin-gateway"], "algorithms": ["ES256"], "jwks": {"file": str(keys)}}
    listener = {"auth": "jwt", "issuers": ["c"], "tls": {"minted_names": ["127.0.0.1"]}}
    with accepting() as (_, canary):
        section: dict[str, Any] = {"issuers": [{"name": "c", "kind": "kubernetes", **issuer}], "canary": canary}
        async with (
            running(tmp_path, [], listener=listener, section=section) as rig,
            relaying(tmp_path / "r", f"https://{rig.address}", "--ca-file", str(rig.ca_file)) as relay,
            told() as (_, closed),
        ):
            trust = tmp_path / "trust"
            trust.mkdir()
            ca, bundle = trust / "ca.crt", trust / "bundle.crt"
            ca.write_bytes(rig.ca_file.read_bytes())
            roots = Path(ssl.get_default_verify_paths().cafile or "/etc/ssl/certs/ca-certificates.crt")
            bundle.write_bytes(ca.read_bytes() + (roots.read_bytes() if roots.exists() else rig.pki.ca_file.read_bytes()))
            good = {
                **dict.fromkeys(PROXY, f"http://{relay.address}"),
                **dict.fromkeys(("NO_PROXY", "no_proxy"), "localhost,127.0.0.1,::1"),
                "NODE_USE_ENV_PROXY": "1",
                **dict.fromkeys(ADDED_ROOTS, str(ca)),
                **dict.fromkeys(REPLACED_ROOTS, str(bundle)),
            }
            common = ["--ca-file", str(ca), "--token-file", str(relay.token_file)]

            code, found = await look(capsys, good, *common, "--gateway", closed)
            assert (code, [line for name in found if name.startswith("fail") for line in found[name]]) == (0, [])
            assert found.keys() >= {"ok proxy_set", "ok ca_file", "ok token", "ok relay", "ok gateway", "ok egress_closed"}
            assert len(found["ok ca_variable"]) == 1 + len(REPLACED_ROOTS)

            code, found = await look(capsys, {}, *common)  # each missing variable by its name
            assert code == 4
            unset = " ".join(found["fail proxy_unset"] + found["fail ca_variable_unset"] + found["fail no_proxy_unset"])
            assert [
                name for name in (*PROXY, *ADDED_ROOTS, *REPLACED_ROOTS, "NO_PROXY", "no_proxy") if f" {name} is not set" not in unset
            ] == []
            assert "NODE_USE_ENV_PROXY" in found["fail node_proxy_unset"][0]
            assert "warn gateway_unknown" in found

            wrong = {
                **good,
                "CURL_CA_BUNDLE": str(ca),
                "PIP_CERT": str(rig.pki.ca_file),
                "DENO_CERT": "/nowhere",
                "SSL_CERT_FILE": str(rig.ca_file.with_name("tls.key")),
                "HTTP_PROXY": "http://jwt:secret-token@127.0.0.1:1",
                "no_proxy": "localhost,.svc",
                "ALL_PROXY": "socks5://x",
            }
            code, found = await look(capsys, wrong, *common, "--gateway", rig.address)
            assert code == 4
            assert "CURL_CA_BUNDLE" in found["fail ca_only"][0]
            assert "PIP_CERT" in found["fail ca_missing"][0]
            assert [name for name in ("DENO_CERT", "SSL_CERT_FILE") if name not in "".join(found["fail ca_file_unreadable"])] == []
            assert found.keys() >= {"warn proxy_credential", "warn proxy_differs", "warn no_proxy_wide", "warn proxy_other", "ok ca"}
            assert canary in found["fail egress_open"][0]
            assert "secret" not in "".join(line for lines in found.values() for line in lines)

            assert main(["ca", "init", "--out", str(tmp_path / "old")]) == 0  # what this pod has is a CA of before
            stale = ["--ca-file", str(tmp_path / "old" / "ca.crt")]
            code, found = await look(capsys, good, *stale, "--gateway", rig.address)
            assert code == 4
            assert main(["ca", "fingerprint", str(ca)]) == 0
            now = capsys.readouterr().out.split("\n")[0].removeprefix("sha256 ")
            assert f"the gateway has the CA {now}" in found["fail ca_stale"][0]
            assert "its certificate is not trusted" in found["fail gateway_unreachable"][0]

            relay.token_file.write_bytes(AUTHORITY.service_account_token(audience="other", lifetime_s=-5))
            code, found = await look(capsys, good, *common, "--gateway", f"127.0.0.1:{free_port()}")
            assert found.keys() >= {"fail token_expired", "fail parent_refused", "fail gateway_unreachable"}
        code, found = await look(capsys, good, *common)
        assert (code, "fail relay_unreachable" in found) == (4, True)


async def test_a_gateway_without_tls_and_a_missing_ca_file_are_named_and_nothing_is_said_of_what_was_not_seen(
    tmp_path: Path, capsys: Output
) -> None:
    def refuse(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
        writer.close()

    ca = CertificateAuthority(tmp_path).ca_file
    environ = {name: str(ca) for name in (*ADDED_ROOTS, *REPLACED_ROOTS[1:])} | {REPLACED_ROOTS[0]: "/nowhere"}
    async with await asyncio.start_server(refuse, "127.0.0.1", 0) as server:
        place = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        _, found = await look(capsys, environ, "--gateway", place, "--ca-file", str(ca))
        (line,) = found["fail gateway_unreachable"]
        assert line.endswith(f"; fix: it answers without TLS: write http://{place}")
        assert await asyncio.to_thread(main, ["wait", "egress", "--gateway", place, "--ca-file", str(ca), "--timeout", "0"]) == 3
        assert f"it answers without TLS: write http://{place}, and no --ca-file" in capsys.readouterr().err
        _, found = await look(capsys, environ, "--ca-file", "/absent")
        assert [name for name in found if name in {"ok ca_variable", "fail ca_missing", "fail ca_only"}] == []
        (absent, variable) = found["fail ca_file_unreadable"]
        assert "/absent: No such file or directory; whether the files of the variables have the CA was not looked at" in absent
        assert REPLACED_ROOTS[0] in variable


def test_each_code_is_on_the_page_and_no_other() -> None:
    root = Path(__file__).parents[3]
    source = "".join((root / "src/robin/cli/findings" / f"egress_{part}.py").read_text() for part in ("environment", "network"))
    written = set(re.findall(r'\b(?:ok|warn|fail)\(\s*"(\w+)"', source)) | set(re.findall(r'^    "(\w+)": "', source, re.MULTILINE))
    page = (root / "docs/reference/cli.md").read_text().split("`robin doctor egress` looks")[1].split("\n## ")[0]
    rows = re.findall(r"^\| (`[^|]+) \|", page, re.MULTILINE)
    assert {code for row in rows for code in re.findall(r"`(\w+)`", row)} == written


def test_a_token_that_no_agent_should_have_is_a_warning(tmp_path: Path) -> None:
    mounted = tmp_path / "token"
    mounted.write_bytes(b"x")
    found = list(look_at_tokens(str(mounted), SystemClock(), str(mounted)))
    assert [(one.subject, one.health.value) for one in found] == [("service_account_token", "warn"), ("token_malformed", "fail")]


def test_the_json_form_has_the_same_codes(capsys: Output) -> None:
    assert main(["doctor", "egress", "--json", "--ca-file", "/nowhere"]) == 4
    read = json.loads(capsys.readouterr().out)
    assert read["ok"] is False
    assert {"code": "ca_file_unreadable", "status": "fail"}.items() <= next(
        one for one in read["findings"] if one["code"] == "ca_file_unreadable"
    ).items()

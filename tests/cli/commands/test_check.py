"""`robin check` (item O2): every key with its value and origin, for people and machines; errors, all of them, and exit 2."""

import json
import os
from pathlib import Path

from tests.cli.conftest import RunRobin

from robin.config.table import SETTINGS


async def test_the_table_has_a_line_for_each_key_with_its_origin(run_robin: RunRobin, tmp_path: Path) -> None:
    config = tmp_path / "robin.env"
    config.write_text("# settings\nROBIN_AUDIENCE=broker.test\n")
    config.chmod(0o600)
    ended = await run_robin("check", "--config", str(config), "--listen-uds", "/run/r.sock", ROBIN_UPSTREAM_URL="https://broker.example")
    assert (ended.code, ended.err) == (0, "")
    lines = {line.split()[0]: line.split(None, 1)[1] for line in ended.out.splitlines() if line.startswith("ROBIN_")}
    given = ["ROBIN_UPSTREAM_URL", "ROBIN_AUDIENCE", "ROBIN_LISTEN_UDS", "ROBIN_CONFIG"]
    assert list(lines) == [*given, *(key for key in SETTINGS if key not in given)]
    assert lines["ROBIN_UPSTREAM_URL"] == "env           https://broker.example"
    assert lines["ROBIN_AUDIENCE"] == "file line 2   broker.test"
    assert lines["ROBIN_LISTEN_UDS"] == "flag          /run/r.sock"
    assert lines["ROBIN_LISTEN_ADDR"] == "default       127.0.0.1:4000  (replaced by ROBIN_LISTEN_UDS)"
    assert lines["ROBIN_UDS_MODE"] == "default       auto  (0600)"
    assert lines["ROBIN_SVID_HINT"] == "default       unset"
    assert lines["ROBIN_ADMIN_ADDR"] == "default       :4001  (every interface; on a host use 127.0.0.1:4001)"
    assert ended.out.splitlines()[-1].startswith("warning: ROBIN_PEERCRED_ALLOW_UIDS is unset: ")


async def test_json_says_the_same_to_machines(run_robin: RunRobin) -> None:
    url = "https://broker.example"
    ended = await run_robin("check", "--json", "--admin-quit", ROBIN_UPSTREAM_URL=url, ROBIN_SVID_HINT="internal")
    said = json.loads(ended.out)
    assert ended.code == 0
    assert said["ok"] is True
    assert list(said["settings"]) == list(SETTINGS)
    assert said["settings"]["ROBIN_ADMIN_QUIT"] == {"value": "true", "origin": "flag", "note": None}
    assert said["settings"]["ROBIN_AUDIENCE"] == {"value": None, "origin": "default", "note": None}
    assert said["settings"]["ROBIN_SVID_HINT"] == {"value": "internal", "origin": "env", "note": "not used: ROBIN_TOKEN_SOURCE=file"}
    assert said["warnings"] == []


async def test_every_error_is_told_and_nothing_else(run_robin: RunRobin) -> None:
    ended = await run_robin("check", ROBIN_PEERCRED_ALLOW_UID="0", ROBIN_DRAIN_MAX="x", ROBIN_PORT="tcp://10.0.0.1:4000")
    assert (ended.code, ended.out) == (2, "")
    assert [line.split(":")[1] for line in ended.err.splitlines()] == [
        " ROBIN_PEERCRED_ALLOW_UID (from env)",
        " ROBIN_UPSTREAM_URL is required",
        " ROBIN_DRAIN_MAX (from env)",
    ]


async def test_json_errors_have_key_origin_what_and_fix(run_robin: RunRobin) -> None:
    ended = await run_robin("check", "--json", "--log-level", "loud", ROBIN_UPSTREAM_URL="https://broker.example")
    assert ended.code == 2
    assert json.loads(ended.out) == {
        "ok": False,
        "errors": [
            {
                "key": "ROBIN_LOG_LEVEL",
                "origin": "flag",
                "what": '"loud" is not one of its values',
                "fix": "use debug, info, warning or error",
            }
        ],
    }
    assert ended.err.startswith("robin: ROBIN_LOG_LEVEL (from flag): ")


async def test_what_the_required_header_must_say_is_not_shown(run_robin: RunRobin) -> None:
    for form in ((), ("--json",)):
        ended = await run_robin("check", *form, "--require-header", "x-guard:hunter2", ROBIN_UPSTREAM_URL="https://broker.example")
        assert "hunter2" not in ended.out + ended.err
        assert "x-guard:(hidden)" in ended.out


YAML = "version: 1\nsidecar:\n  upstream: {url: https://broker.example}\n"


def yaml_file(folder: Path, text: str) -> str:
    (folder / "config").write_text(text)
    (folder / "config").chmod(0o600)
    return str(folder / "config")


async def test_a_robin_yaml_is_told_by_its_content_and_may_be_named_outright(run_robin: RunRobin, tmp_path: Path) -> None:
    for words in (("check",), ("check", "sidecar")):
        ended = await run_robin(*words, "--config", yaml_file(tmp_path, YAML))
        assert (ended.code, ended.err) == (0, "")
        assert "file line 3   https://broker.example" in ended.out


async def test_errors_of_a_robin_yaml_have_file_line_column_code_message_and_fix(run_robin: RunRobin, tmp_path: Path) -> None:
    config = yaml_file(tmp_path, YAML + "  limits: {feilds: 1}\n")
    ended = await run_robin("check", "--json", "--config", config, ROBIN_MAX_CONNECTIONS="x")
    assert ended.code == 2
    found = json.loads(ended.out)
    assert [error["key"] for error in found["errors"]] == ["ROBIN_MAX_CONNECTIONS"]
    assert found["diagnostics"] == [
        {
            "file": config,
            "line": 4,
            "col": 12,
            "severity": "error",
            "code": "unknown_key",
            "message": '"feilds" is not a key of sidecar.limits',
            "fix": "write fields (the nearest), or remove it",
        }
    ]
    assert ended.err.splitlines()[0] == (
        f'{config}:4:12: error: unknown_key: "feilds" is not a key of sidecar.limits. Fix: write fields (the nearest), or remove it.'
    )


async def test_a_file_that_is_missing_or_a_profile_is_named_with_the_flag_for_it(run_robin: RunRobin, tmp_path: Path) -> None:
    profile = tmp_path / "x.yaml"
    profile.write_text("id: x\ndisplay_name: X\nendpoints: [{host: api.test}]\n")
    os.mkfifo(tmp_path / "pipe")
    for words, message in (
        ([str(tmp_path / "pipe")], "the file is not a regular file; name a regular file"),
        (["nosuch.yaml"], "nosuch.yaml: cannot read the file: No such file or directory; name a readable file with --config"),
        ([str(profile)], f"provider profile; check it with robin check --profile {profile}"),
    ):
        ended = await run_robin("check", "--config", *words)
        assert (ended.code, ended.err.endswith(message)) == (2, True), ended.err


async def test_a_plane_that_does_not_exist_is_a_usage_error(run_robin: RunRobin) -> None:
    ended = await run_robin("check", "gatway")
    assert (ended.code, ended.err) == (2, "robin: 'gatway' is not a plane; use sidecar, gateway, kube, broker")


CLUSTER = """version: 1
gateway:
  bridge: {slots: {a: /nowhere/ca/a}}
  policy: {rules: [{name: docs, hosts: [docs.example.com], methods: [GET]}]}
"""


async def test_the_file_of_a_pod_is_checked_and_explained_outside_of_it(run_robin: RunRobin, tmp_path: Path) -> None:
    config = yaml_file(tmp_path, CLUSTER)
    ended = await run_robin("check", "--config", config)
    assert (ended.code, ": error: ca_invalid: " in ended.err) == (2, True), ended.err
    ended = await run_robin("check", "--files-elsewhere", "--config", config)
    assert (ended.code, ended.out, ": warning: file_missing: " in ended.err) == (0, f"ok: {config}: 1 listener(s), 1 rule(s)", True), ended
    ended = await run_robin("explain", "gateway", "--files-elsewhere", "--config", config, "GET", "https://docs.example.com/")
    assert (ended.code, "permit" in ended.out) == (0, True), ended
    ended = await run_robin("check", "sidecar", "--files-elsewhere", "--config", yaml_file(tmp_path, YAML))
    assert (ended.code, ended.err) == (2, "robin: --files-elsewhere is for the settings of a gateway")

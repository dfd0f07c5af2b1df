"""`robin token` (item O4): claims and checks are shown; the token, its parts and its signature are not."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.cli.conftest import RunRobin

from robin.config.table import IDENTITY_KEYS, SETTINGS
from robin.testing.authority import IdentityAuthority

URL = {"ROBIN_UPSTREAM_URL": "https://broker.example"}


async def test_it_shows_header_claims_time_left_and_checks(run_robin: RunRobin, token_file: Path) -> None:
    ended = await run_robin("token", ROBIN_TOKEN_FILE=str(token_file), ROBIN_AUDIENCE="broker.test", **URL)
    assert (ended.code, ended.err) == (0, "")
    assert '    "alg": "ES256",' in ended.out
    assert '"sub": "system:serviceaccount:demo:agent"' in ended.out
    assert "  ok   audience: contains ROBIN_AUDIENCE" in ended.out
    assert "FAIL" not in ended.out
    assert int(ended.out.split("time left: ")[1].split()[0]) == pytest.approx(600, abs=60)


async def test_the_identity_settings_are_enough(run_robin: RunRobin, token_file: Path) -> None:
    elsewhere = {"ROBIN_LISTEN_ADDR": "nonsense", "ROBIN_DRAIN_MAX": "soon"}  # no business of this command
    ended = await run_robin("token", ROBIN_TOKEN_FILE=str(token_file), ROBIN_AUDIENCE="broker.test", **elsewhere)
    assert (ended.code, ended.err) == (0, "")
    assert "  ok   audience: contains ROBIN_AUDIENCE" in ended.out


async def test_a_command_line_of_the_sidecar_may_be_taken_as_it_is(run_robin: RunRobin, token_file: Path) -> None:
    ended = await run_robin("token", "--upstream-url", "https://broker.example", "--token-file", str(token_file))
    assert ended.code == 0


async def test_its_help_lists_the_settings_that_it_reads_and_no_others(run_robin: RunRobin) -> None:
    ended = await run_robin("token", "--help")
    assert ended.code == 0
    listed = set(re.findall(r"^  (--[a-z-]+)", ended.out, flags=re.MULTILINE)) - {
        "--json",
        "--unsafe-print-token",
        "--grant",
        "--grant-audience",
    }
    assert listed == {SETTINGS[key].flag for key in (*IDENTITY_KEYS, "ROBIN_CONFIG")}
    assert "[required]" not in ended.out


async def test_what_is_wrong_with_the_identity_settings_is_exit_2(run_robin: RunRobin) -> None:
    ended = await run_robin("token", ROBIN_TOKEN_SOURCE="jwtsvid", ROBIN_SVID_FETCH_TIMEOUT="10", ROBIN_AUDIANCE="typo")
    assert (ended.code, ended.out) == (2, "")
    assert ended.err.splitlines() == [
        "robin: ROBIN_AUDIANCE (from env): unknown setting; write ROBIN_AUDIENCE (the nearest), or remove it",
        'robin: ROBIN_SVID_FETCH_TIMEOUT (from env): "10" has no unit; write 10s or 10ms',
        "robin: ROBIN_AUDIENCE is required for ROBIN_TOKEN_SOURCE=jwtsvid: set it to the audience that the upstream expects",
        "robin: ROBIN_SPIFFE_SOCKET is required for ROBIN_TOKEN_SOURCE=jwtsvid: set it to unix:///path/to/agent.sock, "
        "or set SPIFFE_ENDPOINT_SOCKET",
    ]


async def test_json_says_the_same_to_machines(run_robin: RunRobin, token_file: Path) -> None:
    ended = await run_robin("token", "--json", ROBIN_TOKEN_FILE=str(token_file), **URL)
    said = json.loads(ended.out)
    assert ended.code == 0
    assert (said["ok"], said["header"]["alg"], said["claims"]["aud"]) == (True, "ES256", ["broker.test"])
    assert said["expires_in_s"] == pytest.approx(600, abs=60)
    assert [check["name"] for check in said["checks"] if not check["passed"]] == []
    assert "token" not in said


async def test_a_token_that_fails_a_check_is_exit_1_with_its_fix(run_robin: RunRobin, token_file: Path) -> None:
    ended = await run_robin("token", ROBIN_TOKEN_FILE=str(token_file), ROBIN_AUDIENCE="other", **URL)
    assert ended.code == 1
    assert "  FAIL audience: `aud` does not contain ROBIN_AUDIENCE\n       fix: make ROBIN_AUDIENCE" in ended.out


@pytest.mark.parametrize("words", [(), ("--json",)])
async def test_no_token_is_exit_1_and_says_why(run_robin: RunRobin, tmp_path: Path, words: tuple[str, ...]) -> None:
    ended = await run_robin("token", *words, ROBIN_TOKEN_FILE=str(tmp_path / "none"), **URL)
    assert ended.code == 1
    assert ended.err.startswith("robin: missing: the file of ROBIN_TOKEN_FILE does not exist; ")


@pytest.mark.parametrize("words", [("token",), ("token", "--json"), ("doctor",), ("doctor", "--json"), ("check",), ("check", "--json")])
async def test_no_command_shows_a_byte_of_the_token(
    run_robin: RunRobin, token_file: Path, shapes_of: Callable[[bytes], list[str]], words: tuple[str, ...]
) -> None:
    settings = {
        "ROBIN_TOKEN_FILE": str(token_file),
        "ROBIN_UPSTREAM_URL": "http://127.0.0.1:9",
        "ROBIN_LISTEN_ADDR": "127.0.0.1:0",
        "ROBIN_ADMIN_ADDR": "off",
    }
    ended = await run_robin(*words, ROBIN_AUDIENCE="other", ROBIN_LOG_LEVEL="debug", **settings)
    assert ended.out
    token = token_file.read_bytes().strip()
    assert [shape for shape in shapes_of(token) if shape in ended.out + ended.err] == []


async def test_a_malformed_token_is_not_quoted(run_robin: RunRobin, tmp_path: Path) -> None:
    (tmp_path / "token").write_bytes(b"hunter2.hunter2")
    ended = await run_robin("token", ROBIN_TOKEN_FILE=str(tmp_path / "token"), **URL)
    assert ended.code == 1
    assert "  FAIL form: the token is not three base64url segments" in ended.out
    assert "hunter2" not in ended.out + ended.err


async def test_only_the_unsafe_flag_prints_it(run_robin: RunRobin, token_file: Path, authority: IdentityAuthority) -> None:
    token = token_file.read_text().strip()
    plain = await run_robin("token", "--unsafe-print-token", ROBIN_TOKEN_FILE=str(token_file), **URL)
    assert (plain.code, plain.out) == (0, token)
    as_json = await run_robin("token", "--unsafe-print-token", "--json", ROBIN_TOKEN_FILE=str(token_file), **URL)
    assert json.loads(as_json.out)["token"] == token


async def test_hostile_claims_cannot_drive_a_terminal(run_robin: RunRobin, tmp_path: Path, authority: IdentityAuthority) -> None:
    (tmp_path / "token").write_bytes(authority.service_account_token(audience="a", note="\x1b[31mred\x9b\n", sub="é"))
    ended = await run_robin("token", ROBIN_TOKEN_FILE=str(tmp_path / "token"), **URL)
    assert ended.code == 0
    assert "\x1b" not in ended.out
    assert '"\\u001b[31mred\\u009b\\n"' in ended.out

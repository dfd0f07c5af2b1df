"""`robin sidecar` with bad settings (items I3, I4): exit 2, every error told, and nothing bound."""

import socket
from pathlib import Path

import pytest
from tests.cli.conftest import RunRobin

from robin.testing.process import RobinProcess, free_port


@pytest.mark.parametrize("words", [(), ("sidecar",)])
async def test_bad_settings_end_it_before_anything_is_bound(run_robin: RunRobin, words: tuple[str, ...]) -> None:
    port, admin = free_port(), free_port()
    with socket.create_server(("127.0.0.1", admin)):  # were the admin bound first, it would exit 3
        ended = await run_robin(
            *words,
            ROBIN_UPSTREAM_URL="http://broker.example",
            ROBIN_LISTEN_ADDR=f"127.0.0.1:{port}",
            ROBIN_ADMIN_ADDR=f"127.0.0.1:{admin}",
            ROBIN_PEERCRED_ALLOW_UID="0",
        )
    assert (ended.code, ended.out) == (2, "")
    assert [line.split(";")[0] for line in ended.err.splitlines()] == [
        "robin: ROBIN_PEERCRED_ALLOW_UID (from env): unknown setting",
        "robin: ROBIN_UPSTREAM_URL (from env): http to a host that is not loopback",
    ]


async def test_a_listener_beyond_loopback_needs_the_switch(run_robin: RunRobin) -> None:
    ended = await run_robin("--listen-addr", "0.0.0.0:0", ROBIN_UPSTREAM_URL="https://broker.example")
    assert ended.code == 2
    assert ended.err.startswith("robin: ROBIN_LISTEN_ADDR (from flag): 0.0.0.0:0 is not a loopback address; ")
    assert "ROBIN_UNSAFE_LISTEN=true" in ended.err


async def test_it_runs_with_a_robin_yaml_and_a_flag_above_it(tmp_path: Path, token_file: Path) -> None:
    config = tmp_path / "robin.yaml"
    config.write_text(
        "version: 1\n"
        "sidecar:\n"
        "  upstream: {url: 'http://127.0.0.1:9'}\n"
        f"  identity: {{token_file: '{token_file}', audience: broker.test}}\n"
        "  listeners: {proxy: ['127.0.0.1:0'], admin: []}\n"
        "  telemetry: {log_level: error}\n"
    )
    config.chmod(0o600)
    async with RobinProcess("sidecar", "--config", str(config), "--log-level", "info", settings={}) as robin:
        started = await robin.event("started")
        assert (started["upstream"], started["admin"]) == ("http://127.0.0.1:9", [])
        assert await robin.stop() == 0

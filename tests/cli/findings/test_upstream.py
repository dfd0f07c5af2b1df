"""What the doctor finds of the upstream: a name that leads back to Robin, roots of the system, and a peer that speaks no TLS."""

import asyncio
import contextlib
from dataclasses import replace

from robin.cli.findings.finding import Finding, Health
from robin.cli.findings.upstream import look
from robin.config.load import Loaded, load
from robin.config.settings import SidecarSettings
from robin.model.address import TcpAddress
from robin.testing.connection import ScriptedConnection
from robin.testing.process import free_port
from robin.testing.recording_upstream import RecordingUpstream
from robin.transport.clock import SystemClock


def settings(**environ: str) -> SidecarSettings:
    loaded = load({}, environ)
    assert isinstance(loaded, Loaded), [str(error) for error in loaded]
    return loaded.settings


async def findings(chosen: SidecarSettings) -> list[Finding]:
    return await asyncio.to_thread(lambda: list(look(chosen, SystemClock())))


async def test_a_name_that_resolves_to_robin_itself_is_a_loop() -> None:
    chosen = settings(ROBIN_UPSTREAM_URL="http://localhost:4999")
    later = replace(
        chosen, listeners=replace(chosen.listeners, proxy=(TcpAddress(host="127.0.0.1", port=4999),))
    )  # it resolves there later
    (loop,) = await findings(later)
    assert (loop.subject, loop.health) == ("upstream", Health.FAIL)
    assert loop.what == "loop: localhost port 4999: ROBIN_UPSTREAM_URL leads back to this Robin"


async def test_without_a_ca_file_the_roots_are_the_systems() -> None:
    found = await findings(settings(ROBIN_UPSTREAM_URL=f"https://127.0.0.1:{free_port()}"))
    assert found[0].subject == "upstream roots"
    assert found[0].health in (Health.OK, Health.WARN)


async def test_a_peer_that_answers_in_clear_text_is_no_tls() -> None:
    async def greet(connection: ScriptedConnection) -> None:
        with contextlib.suppress(Exception):
            await connection.send(b"220 mail.example ESMTP\r\n")
            await connection.wait_ended()

    async with RecordingUpstream(greet) as upstream:
        found = await findings(settings(ROBIN_UPSTREAM_URL=f"https://127.0.0.1:{upstream.port}"))
    (tls,) = [finding for finding in found if finding.subject == "upstream tls"]
    assert tls.health is Health.FAIL
    assert tls.what == f"alert: 127.0.0.1 port {upstream.port}: the TLS handshake with the upstream failed (TLS 1.2 or newer is required)"

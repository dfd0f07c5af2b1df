"""What the doctor finds of an identity: beside a real Workload API, and at clocks that disagree."""

import asyncio
from pathlib import Path

import pytest

from robin.cli.findings.finding import Finding, Health
from robin.cli.findings.identity import look
from robin.config.load import Loaded, load
from robin.config.settings import SidecarSettings
from robin.model.secret import Secret
from robin.testing.authority import IdentityAuthority
from robin.testing.manual_clock import ManualClock
from robin.testing.tokens import make_token
from robin.testing.workload_api import WorkloadApi, answer_with
from robin.transport.clock import SystemClock
from robin.wire.workload_api import JwtSvid


def settings(**environ: str) -> SidecarSettings:
    loaded = load({}, {"ROBIN_UPSTREAM_URL": "https://broker.example", "ROBIN_AUDIENCE": "broker.test", **environ})
    assert isinstance(loaded, Loaded), [str(error) for error in loaded]
    return loaded.settings


def svid(authority: IdentityAuthority, path: str) -> JwtSvid:
    token = Secret(authority.jwt_svid(audience="broker.test", path=path))
    return JwtSvid(spiffe_id=f"spiffe://{authority.trust_domain}{path}", svid=token)


def health_of(findings: list[Finding]) -> list[tuple[str, Health]]:
    return [(finding.subject, finding.health) for finding in findings]


async def test_a_workload_api_that_answers_is_well(tmp_path: Path, authority: IdentityAuthority) -> None:
    api = WorkloadApi(answer_with((svid(authority, "/app"),)))
    address = await api.start_unix(str(tmp_path / "a.sock"))
    chosen = settings(ROBIN_TOKEN_SOURCE="jwtsvid", ROBIN_SPIFFE_SOCKET=f"unix://{tmp_path}/a.sock")
    findings = await asyncio.to_thread(lambda: list(look(chosen, SystemClock())))
    await api.close()
    assert health_of(findings) == [("workload api", Health.OK), ("token", Health.OK), ("clock", Health.OK)]
    assert findings[0].what == f"{address} accepts connections"


async def test_several_identities_without_a_choice_are_to_be_looked_at(tmp_path: Path, authority: IdentityAuthority) -> None:
    api = WorkloadApi(answer_with((svid(authority, "/app"), svid(authority, "/other"))))
    await api.start_tcp()
    chosen = settings(ROBIN_TOKEN_SOURCE="jwtsvid", ROBIN_SPIFFE_SOCKET=f"tcp://{api.address}")
    findings = await asyncio.to_thread(lambda: list(look(chosen, SystemClock())))
    await api.close()
    assert ("token", Health.WARN) in health_of(findings)
    assert any("ROBIN_SPIFFE_ID" in finding.what for finding in findings)


def test_a_clock_a_little_behind_is_to_be_looked_at_and_far_behind_it_fails(token_file: Path) -> None:
    chosen = settings(ROBIN_TOKEN_FILE=str(token_file))
    now = SystemClock().wall()
    assert ("clock", Health.OK) in health_of(list(look(chosen, ManualClock(wall=now + 5))))
    assert ("clock", Health.WARN) in health_of(list(look(chosen, ManualClock(wall=now - 10))))
    assert ("clock", Health.FAIL) in health_of(list(look(chosen, ManualClock(wall=now - 120))))


@pytest.mark.parametrize("issued_at", [10**400, -(10**400), 10**300, [1]], ids=["huge", "negative", "large", "list"])
def test_an_iat_that_is_no_date_is_not_judged(tmp_path: Path, issued_at: object) -> None:
    path = tmp_path / "token"
    path.write_bytes(make_token(expires_at=SystemClock().wall() + 300, audience="broker.test", claims={"iat": issued_at}))
    path.chmod(0o600)
    assert "clock" not in dict(health_of(list(look(settings(ROBIN_TOKEN_FILE=str(path)), SystemClock()))))

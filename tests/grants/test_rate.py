"""The bound on calls to one issuer: G46 of grants.md, of the cache ten times as fast, and at a gateway as it is written."""

import asyncio
from pathlib import Path

import pytest
from tests.grants.proxied import reply, world
from tests.grants.test_exchange import EXCHANGE, caller

from robin.grants.cache import CredentialCache
from robin.grants.grant import Grant, GrantFailure, IssuedCredential
from robin.grants.rate import IssuerRates
from robin.grants.run import GrantDriver
from robin.grants.settings import CacheSettings
from robin.identity.issuer import IssuerRequest, IssuerResponse
from robin.model.credential import Credential
from robin.model.identity import IdentityToken
from robin.model.secret import Secret
from robin.testing.authority import IdentityAuthority
from robin.testing.embedded_identity import EmbeddedIdentities
from robin.testing.waiting import eventually
from robin.transport.clock import SystemClock
from robin.transport.entropy import SystemEntropy
from robin.transport.tasks import TaskOwner


class Counting:
    """An issuer client whose calls take some turns of the loop, so that several are open at once."""

    def __init__(self) -> None:
        self.calls = self.open = self.most = 0

    async def send(self, _request: IssuerRequest, _deadline_at: float) -> IssuerResponse:
        self.calls += 1
        self.open += 1
        self.most = max(self.most, self.open)
        try:
            for _ in range(10):
                await asyncio.sleep(0)
        finally:
            self.open -= 1
        return IssuerResponse(status=200, fields={}, body=Secret(reply(200)))


def flow(_identity: IdentityToken, _now: float):  # type: ignore[no-untyped-def]
    yield IssuerRequest(method="POST", url="https://issuer.example/token")
    return IssuedCredential(token=Secret(b"t"), usable_s=60)


async def test_g46_many_keys_at_once_make_few_calls_and_the_rest_are_refused(tmp_path: Path) -> None:
    clock, client, failures = SystemClock(), Counting(), list[BaseException]()
    tasks = TaskOwner(lambda _, error: failures.append(error))
    settings = CacheSettings(rate_per_s=50, rate_burst=20, concurrency=8, entries_max=100)
    rates = IssuerRates(clock, settings)
    driver = GrantDriver(client, clock=clock, entropy=SystemEntropy(), timeout_s=1.0, rate_of=rates.of)
    cache = CredentialCache(clock=clock, entropy=SystemEntropy(), tasks=tasks, wait_s=2, fetch_s=2, entries_max=settings.entries_max)
    identity = EmbeddedIdentities(IdentityAuthority(clock=clock), clock).get("default", "a")

    async def one(number: int) -> Credential | str:
        grant = Grant(name="test", key=number, identity=identity, flow=flow)
        try:
            return await cache.obtain(number, lambda: driver.run(grant))
        except GrantFailure as failure:
            return failure.code

    began = clock.monotonic()
    outcomes = await asyncio.gather(*map(one, range(2000)))
    took_s = clock.monotonic() - began
    assert client.calls <= 1 + settings.rate_burst + settings.rate_per_s * took_s
    assert 1 < client.most <= 8
    refused = [outcome for outcome in outcomes if isinstance(outcome, str)]
    assert set(refused) <= {"issuer_overloaded", "issuer_unavailable"}, "the last that were let go may meet their deadline"
    assert "issuer_overloaded" in refused
    assert len(refused) >= 2000 - client.calls
    assert len(cache) <= settings.entries_max
    await tasks.close()
    assert failures == []


@pytest.mark.slow
async def test_g46_two_thousand_subjects_in_ten_seconds_make_seventy_calls_eight_at_once(tmp_path: Path) -> None:
    """The bound is the one that a gateway has without settings: 5 calls a second, a burst of 20, 8 at once.

    A call whose turn comes just before the end of the time that a request waits ends as one that had no answer in time.
    """
    section: dict[str, object] = {"limits": dict.fromkeys(("connections_per_caller", "inflight_per_caller"), 0)}
    async with world(tmp_path, grant=f"{EXCHANGE}, subject_token: {{source: caller}}", section=section) as at:
        loop, calls = asyncio.get_running_loop(), list[asyncio.Task[tuple[int, str]]]()

        async def one(number: int) -> tuple[int, str]:
            answer = await at.ask(fields=caller(f"subject-{number}"))
            return answer.status, "" if answer.status == 200 else str(answer.problem["code"])

        began = loop.time()
        at.issuer.gate.clear()
        for number in range(2000):
            await asyncio.sleep(began + number / 200 - loop.time())
            calls.append(loop.create_task(one(number)))
            if number == 60:
                await eventually(lambda: len(at.issuer.seen) >= 8, what="as many calls as may be open at once")
                for _ in range(100):
                    await asyncio.sleep(0)
                assert len(at.issuer.seen) == 8
                at.issuer.gate.set()
        assert 50 < len(at.issuer.seen) <= 20 + 5 * (loop.time() - began) + 1
        found = [await call for call in calls]
        assert set(found) <= {(200, ""), (503, "issuer_overloaded"), late := (503, "issuer_unavailable")}
        assert found.count((200, "")) + found.count(late) >= len(at.issuer.seen)
        assert found.count(late) <= 8
        assert len(at.issuer.seen) <= 20 + 5 * (loop.time() - began) + 1

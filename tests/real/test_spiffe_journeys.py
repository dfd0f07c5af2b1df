"""A sidecar that lives on a real Workload API: go-spiffe serves it, go-spiffe judges every request at the upstream, over TLS, offline.

What may be late is bounded, what is counted is counted by the agent itself. `left_s` at the upstream is a token's life when it came.
"""

import asyncio
import contextlib
import math
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import datetime

import pytest
from tests.real.parts.bundle_judge import BundleJudge
from tests.real.parts.calm import PROGRAMS, Stalls, timed
from tests.real.parts.load import Answer, Load, ask, check_the_end
from tests.real.parts.platform import on_spire, spiffe_domain
from tests.real.parts.process import poll
from tests.real.parts.sidecar import RealSidecar
from tests.real.parts.spiffe import SpiffeDomain, WorkloadApiRefused
from tests.real.parts.upstream import JudgingUpstream

from robin.testing.certificates import CertificateAuthority
from robin.testing.waiting import eventually

pytestmark = [pytest.mark.real, pytest.mark.usefixtures("platform")]

AUDIENCE = "https://broker.test"
AT_ONCE_S = 0.05  # on a machine that lets us run; its stalls come on top
NOTICED_S = 1.0  # an agent that came, or came back, is used within this time (sidecar spec K1; N8 would allow 5 s)
DENIED = "permission_denied: the Workload API gave no identity (no identity issued); create a registration entry that selects this workload"


@dataclass(frozen=True, slots=True, kw_only=True)
class Journey:
    """A sidecar between callers and an upstream that go-spiffe guards; `stalls` says how far our own instants can be trusted."""

    robin: RealSidecar
    upstream: JudgingUpstream
    stalls: Stalls

    async def get(self, target: str = "/") -> Answer:
        """One request through the sidecar."""
        return await ask(self.robin.url, target)

    @property
    def slack_s(self) -> float:
        """What "at once" may take here."""
        return AT_ONCE_S + PROGRAMS * self.stalls.worst_s

    def check_nobody_waited(self, *, but_after: float = math.inf, until: float = math.inf) -> None:
        """Whoever was served got the identity without waiting; between the two instants there was none, and some joined the flight."""
        slow = [
            one
            for one in self.robin.records
            if one["outcome"] == "forwarded"
            and one["identity_wait_s"] > self.slack_s
            and not but_after < datetime.fromisoformat(one["ts"]).timestamp() < until
        ]
        assert not slow, f"{len(slow)} of {len(self.robin.records)} waited for an identity that was there: {slow[:3]}"

    def check_the_end(self, load: Load, *, lifetime_s: float, expires_at: float, ended_at: float, recovered_at: float) -> None:
        """503 exactly when nothing valid was left, and nobody waited before (`exp` has no fractions: lives are up to 1.3 s shorter)."""
        lives_s = (lifetime_s - 1.3, lifetime_s)
        check_the_end(load, slack_s=self.slack_s, lives_s=lives_s, expires_at=expires_at, ended_at=ended_at, recovered_at=recovered_at)
        self.check_nobody_waited(but_after=expires_at - lifetime_s / 10, until=recovered_at + self.slack_s)


@contextlib.asynccontextmanager
async def registered(path: str = "/app", **choices: object) -> AsyncIterator[SpiffeDomain]:
    """A trust domain whose agent knows one entry, with the id `app`."""
    with spiffe_domain() as domain:
        await asyncio.to_thread(register, domain, path, entry_id="app", **choices)
        yield domain


@contextlib.asynccontextmanager
async def journey(domain: SpiffeDomain, certificates: CertificateAuthority, **changed: str) -> AsyncIterator[Journey]:
    """Everything but the trust domain; `changed` are settings. The sidecar listens, and may have no identity yet."""
    settings = {
        "ROBIN_TOKEN_SOURCE": "jwtsvid",
        "ROBIN_SPIFFE_SOCKET": domain.endpoint,
        "ROBIN_AUDIENCE": AUDIENCE,
        "ROBIN_UPSTREAM_CA_FILE": str(certificates.ca_file),
        "ROBIN_IDENTITY_WAIT": "500ms",
        **changed,
    }
    tls = certificates.issue("localhost").server_context()
    async with (
        BundleJudge(domain, audience=AUDIENCE) as judge,
        JudgingUpstream(judge, tls=tls) as upstream,
        RealSidecar(upstream_url=upstream.url_as("localhost"), settings=settings) as robin,
    ):
        with Stalls() as stalls:
            await robin.listening()
            yield Journey(robin=robin, upstream=upstream, stalls=stalls)


def register(domain: SpiffeDomain, path: str, **choices: object) -> None:
    """An entry, and wait until the agent knows it. Blocking."""
    domain.create_entry(path, **choices)  # type: ignore[arg-type]
    poll(lambda: knows(domain, path), timeout_s=60, what=f"the agent to know {path}")


def knows(domain: SpiffeDomain, path: str) -> bool:
    with contextlib.suppress(WorkloadApiRefused):
        return bool(domain.fetch_svids("https://probe.test", spiffe_id=domain.spiffe_id(path)))
    return False


async def until_refused(load: Load, *, timeout_s: float) -> Answer:
    """The first answer that is not 200."""
    return (await eventually(lambda: load.failed, timeout_s=timeout_s, what="a refusal"))[0]


def tries_most(elapsed_s: float) -> int:
    """How often one may try in this time at the fastest pace of the backoff, which doubles from a quarter of a second."""
    return int(math.log2(elapsed_s / 0.25 + 1)) + 2


@timed
async def test_a_sidecar_that_was_there_before_the_agent_serves_a_token_that_the_bundle_verifies(certificates: CertificateAuthority):
    with spiffe_domain(start=False) as domain:
        async with journey(domain, certificates) as way:
            refused = await way.get()
            assert (refused.status, refused.code) == (503, "identity_unavailable")
            assert 1 <= int(refused.fields["retry-after"]) <= 30
            assert (await way.robin.admin_page("/healthz")).status == 200
            startup = await way.robin.admin_page("/startupz")
            assert (startup.status, startup.document["reasons"]) == (503, ["starting", "identity_unavailable"])

            await asyncio.to_thread(domain.start_authority)
            domain.create_entry("/app")
            await asyncio.to_thread(domain.start_agent)
            began_at = time.monotonic()
            await way.robin.note("started")
            assert time.monotonic() - began_at < NOTICED_S + way.slack_s

            answer = await way.get("/first?x=1")
            assert (answer.status, answer.document["sub"]) == (200, "spiffe://robin.test/app")
            assert (await way.robin.admin_page("/startupz")).status == 200
            (seen,) = way.upstream.judgements
            assert (seen.target, seen.verdict.reason) == ("/first?x=1", "")
            assert seen.verdict.claims["aud"] == [AUDIENCE]
            record = (await way.robin.recorded(2))[1]
            assert (record["outcome"], record["identity"]["source"]) == ("forwarded", "jwtsvid")
            assert record["identity"]["sub"] == "spiffe://robin.test/app"


@timed
async def test_tokens_rotate_across_three_lifetimes_under_load_and_no_request_fails(certificates: CertificateAuthority):
    lifetime_s = 4
    async with registered(jwt_ttl_s=lifetime_s) as spiffe, journey(spiffe, certificates) as way:
        await way.robin.started()
        async with Load(way.robin.url) as load:
            first = await way.upstream.until(lambda _: True, what="the first request")
            end_at = first.verdict.expires_at + 3 * lifetime_s
            await way.upstream.until(lambda one: one.verdict.expires_at > end_at, timeout_s=90, what="a token of the fifth life")
        assert not load.failed, load.failed[:3]
        assert not way.upstream.refused, way.upstream.refused[:3]
        assert len(load.answers) > 200
        assert len(way.upstream.tokens) >= 5
        least_s = min(one.left_s for one in way.upstream.judgements)
        assert least_s > lifetime_s / 2 - 1.2 - way.slack_s, f"renewed at half its life, not {least_s:.2f} s before its end"
        way.check_nobody_waited()
        calls = spiffe.calls(way.robin.pid)
        assert {call.code for call in calls} == {"OK"}
        assert len(calls) <= len(way.upstream.tokens) + 2, "one call for each token"


@timed
async def test_an_agent_killed_and_restarted_is_not_noticed_by_any_request(certificates: CertificateAuthority):
    async with registered(jwt_ttl_s=8) as spiffe, journey(spiffe, certificates) as way:
        await way.robin.started()
        async with Load(way.robin.url) as load:
            held = await way.upstream.until(lambda _: True, what="the first request")
            await asyncio.to_thread(spiffe.agent.kill)
            failure = await way.robin.note("identity_refresh_failed", code="Unavailable")
            assert "start the agent" in failure["detail"]
            await asyncio.to_thread(spiffe.start_agent)
            began_at = time.time()
            renewed = await way.upstream.until(lambda one: one.token != held.token, what="a token of the new agent")
            assert renewed.at - began_at < NOTICED_S + way.slack_s
        assert not load.failed, load.failed[:3]
        assert not way.upstream.refused
        way.check_nobody_waited()


@dataclass(frozen=True, slots=True, kw_only=True)
class Outage:
    """A way in which the platform goes away and comes back, the codes that the agent then answers, and how the sidecar counts it."""

    begin: Callable[[SpiffeDomain], object]
    end: Callable[[SpiffeDomain], object]
    codes: frozenset[str]
    counted: dict[str, str]


OUTAGES = {
    # The agent answers OK with its old copy while that lasts, then Unavailable.
    "the authority is killed": Outage(
        begin=lambda domain: domain.authority.kill(),
        end=lambda domain: domain.start_authority(),
        codes=frozenset({"OK", "Unavailable"}),
        counted={"result": "unchanged", "code": "OK"},
    ),
    # The agent waits for it, and we for the agent.
    "the authority does not answer": Outage(
        begin=lambda domain: domain.authority.pause(),
        end=lambda domain: domain.authority.resume(),
        codes=frozenset({"OK", "Unavailable", "Canceled", "DeadlineExceeded"}),
        counted={"result": "error", "code": "DeadlineExceeded"},
    ),
    "the agent is killed": Outage(
        begin=lambda domain: domain.agent.kill(),
        end=lambda domain: domain.start_agent(),
        codes=frozenset({"OK"}),
        counted={"result": "error", "code": "Unavailable"},
    ),
}


@pytest.mark.parametrize("outage", OUTAGES.values(), ids=[name.replace(" ", "-") for name in OUTAGES])
@timed
async def test_in_an_outage_503_comes_exactly_when_nothing_valid_is_left_and_it_ends_without_a_restart(
    outage: Outage, certificates: CertificateAuthority
):
    lifetime_s = 6
    async with registered(jwt_ttl_s=lifetime_s) as spiffe, journey(spiffe, certificates, ROBIN_SVID_FETCH_TIMEOUT="1s") as way:
        await way.robin.started()
        async with Load(way.robin.url) as load:
            await way.upstream.until(lambda _: True, what="the first request")
            tries_before = await way.robin.metric("robin_identity_refresh_total")
            calls_before = len(spiffe.calls(way.robin.pid))
            began_at = time.time()
            await asyncio.to_thread(outage.begin, spiffe)
            refused = await until_refused(load, timeout_s=lifetime_s + 30)
            expires_at = max(one.verdict.expires_at for one in way.upstream.judgements)
            assert (refused.status, refused.code) == (503, "identity_expired")
            assert 1 <= int(refused.fields["retry-after"]) <= 30
            assert (await way.robin.admin_page("/readyz")).status == 503
            await eventually(lambda: time.time() > expires_at + 1.5, what="a while without any identity")
            assert await way.robin.metric("robin_identity_refresh_total", source="jwtsvid", **outage.counted) >= 1
            tries = await way.robin.metric("robin_identity_refresh_total") - tries_before
            calls = len(spiffe.calls(way.robin.pid)) - calls_before
            assert max(tries, calls) <= tries_most(time.time() - began_at), "no tight loop"
            ended_at = time.time()
            await asyncio.to_thread(outage.end, spiffe)
            recovered = await way.upstream.until(
                lambda one: one.verdict.expires_at > expires_at, timeout_s=60, what="a token after the outage"
            )
        assert (await way.robin.admin_page("/readyz")).status == 200
        assert {call.code for call in spiffe.calls(way.robin.pid)} <= outage.codes
        assert not way.upstream.refused, "the upstream never met a dead token"
        way.check_the_end(load, lifetime_s=lifetime_s, expires_at=expires_at, ended_at=ended_at, recovered_at=recovered.at)
        assert max(one["identity_wait_s"] for one in way.robin.records) < 0.5 + way.slack_s, "at most ROBIN_IDENTITY_WAIT"


@pytest.mark.parametrize("on_denied", ["serve", "stop"])
@timed
async def test_a_deleted_entry_ends_the_service_at_the_tokens_end_or_at_once(on_denied: str, certificates: CertificateAuthority):
    lifetime_s = 6
    async with registered(jwt_ttl_s=lifetime_s) as spiffe, journey(spiffe, certificates, ROBIN_SVID_ON_DENIED=on_denied) as way:
        await way.robin.started()
        async with Load(way.robin.url) as load:
            await way.upstream.until(lambda _: True, what="the first request")
            await asyncio.to_thread(spiffe.delete_entry, "app")
            denied = await way.robin.note("identity_refresh_failed", code="PermissionDenied")
            assert denied["detail"] == DENIED
            refused = await until_refused(load, timeout_s=lifetime_s + 30)
            expires_at = max(one.verdict.expires_at for one in way.upstream.judgements)
            if on_denied == "serve":
                assert refused.code == "identity_expired"
                assert refused.ended_at >= expires_at - lifetime_s / 10 - way.slack_s
            else:
                assert refused.code == "identity_unavailable"
                assert refused.ended_at < expires_at - 1
            await asyncio.to_thread(spiffe.create_entry, "/app", jwt_ttl_s=lifetime_s)
            recovered = await way.upstream.until(lambda one: one.verdict.expires_at > expires_at, what="a token of the new entry")
        assert not way.upstream.refused
        assert not [one for one in load.failed if one.started_at > recovered.at + way.slack_s]
        way.check_nobody_waited(but_after=refused.started_at, until=recovered.at + way.slack_s)


@pytest.mark.parametrize(
    ("choice", "chosen"),
    [
        ({}, "/first"),
        ({"ROBIN_SPIFFE_ID": "spiffe://robin.test/second"}, "/second"),
        ({"ROBIN_SVID_HINT": "external"}, "/second"),
        ({"ROBIN_SPIFFE_ID": "spiffe://robin.test/first", "ROBIN_SVID_HINT": "internal"}, "/first"),
    ],
    ids=["no-selector", "by-id", "by-hint", "by-both"],
)
@timed
async def test_of_two_identities_the_selectors_choose_and_without_them_the_first_comes_with_one_warning(
    choice: dict[str, str], chosen: str, certificates: CertificateAuthority
):
    async with registered("/first", hint="internal", jwt_ttl_s=4) as spiffe:
        await asyncio.to_thread(register, spiffe, "/second", entry_id="second", hint="external", jwt_ttl_s=4)
        async with journey(spiffe, certificates, **choice) as way:
            await way.robin.started()
            assert (await way.get()).document["sub"] == spiffe.spiffe_id(chosen)
            await way.robin.note("identity_renewed", after=1)
            assert (await way.get()).document["sub"] == spiffe.spiffe_id(chosen), "and so it stays when the token is renewed"
            assert len(way.robin.noted("identity_ambiguous")) == (0 if choice else 1)
            assert len(set(way.upstream.tokens)) == 2


@pytest.mark.parametrize(
    "choice", [{"ROBIN_SPIFFE_ID": "spiffe://robin.test/other"}, {"ROBIN_SVID_HINT": "nobody"}], ids=["by-id", "by-hint"]
)
@timed
async def test_a_selector_that_fits_no_identity_gets_503_and_the_upstream_is_not_contacted(
    choice: dict[str, str], certificates: CertificateAuthority
):
    async with registered(hint="internal") as spiffe, journey(spiffe, certificates, **choice) as way:
        refused = await way.get()
        assert (refused.status, refused.code) == (503, "identity_unavailable")
        assert way.upstream.connections_accepted == 0


@timed
async def test_a_token_for_the_wrong_audience_is_the_upstreams_401_and_does_not_storm_the_agent(certificates: CertificateAuthority):
    async with registered() as spiffe, journey(spiffe, certificates, ROBIN_AUDIENCE="https://elsewhere.test") as way:
        await way.robin.started()
        answers = [await way.get(f"/{number}") for number in range(50)]
        assert {answer.status for answer in answers} == {401}
        assert "audience" in answers[0].document["reason"], "go-spiffe's own words came through"
        assert answers[0].fields["www-authenticate"] == 'Bearer error="invalid_token"'
        assert not any("proxy-status" in answer.fields for answer in answers), "the answer is the upstream's"
        records = await way.robin.recorded(50)
        assert {(one["outcome"], one["upstream_status"]) for one in records} == {("forwarded", 401)}
        assert len(way.upstream.judgements) == 50, "no request is repeated"
        calls = await eventually(lambda: spiffe.calls(way.robin.pid)[1:], what="the one forced fetch")
        assert [call.code for call in calls] == ["OK"]


@timed
async def test_the_workload_api_over_tcp_serves_and_outlives_a_restart_of_the_agent(certificates: CertificateAuthority):
    async with registered(jwt_ttl_s=6) as spiffe:
        with spiffe.tcp_endpoint() as (endpoint, relay):
            async with journey(spiffe, certificates, ROBIN_SPIFFE_SOCKET=endpoint) as way:
                await way.robin.started()
                async with Load(way.robin.url) as load:
                    held = await way.upstream.until(lambda _: True, what="the first request")
                    await asyncio.to_thread(spiffe.agent.kill)
                    await asyncio.to_thread(spiffe.start_agent)
                    await way.upstream.until(lambda one: one.token != held.token, what="a token of the new agent")
                assert not load.failed, load.failed[:3]
                assert not way.upstream.refused
                way.check_nobody_waited()
                assert {call.code for call in spiffe.calls(relay.pid)} == {"OK"}


@timed
async def test_permission_is_denied_until_the_entry_exists_and_the_sidecar_then_serves(certificates: CertificateAuthority):
    with spiffe_domain() as spiffe:
        began_at = time.time()
        async with journey(spiffe, certificates) as way:
            assert (await way.robin.note("identity_refresh_failed", code="PermissionDenied"))["detail"] == DENIED
            refused = await way.get()
            assert (refused.status, refused.code) == (503, "identity_unavailable")
            assert "registration entry" in refused.document["detail"]
            assert (await way.robin.admin_page("/readyz")).document["reasons"] == ["starting", "identity_unavailable"]
            assert way.upstream.connections_accepted == 0
            await eventually(lambda: len(spiffe.calls(way.robin.pid)) >= 4, what="four tries")
            calls = spiffe.calls(way.robin.pid)
            assert {call.code for call in calls} == {"PermissionDenied"}
            assert len(calls) <= tries_most(time.time() - began_at), "no tight loop"
            await asyncio.to_thread(spiffe.create_entry, "/app")
            await way.robin.note("started", timeout_s=60)
            assert (await way.get()).document["sub"] == "spiffe://robin.test/app"
            assert not way.upstream.refused


@pytest.mark.slow
@pytest.mark.timeout(600)
@timed
async def test_n10_lives_of_30_s_for_minutes_with_the_authority_away_in_the_middle(certificates: CertificateAuthority):
    """30 s lives under load; the authority goes in the middle and is back 5 s after the end of the last token; five minutes on SPIRE."""
    lifetime_s = 30
    more_lives = 4 if on_spire() else 2
    async with registered(jwt_ttl_s=lifetime_s) as spiffe, journey(spiffe, certificates) as way:
        await way.robin.started()
        async with Load(way.robin.url, every_s=0.1) as load:
            first = await way.upstream.until(lambda _: True, what="the first request")
            grown_at = first.verdict.expires_at + more_lives * lifetime_s
            await way.upstream.until(lambda one: one.verdict.expires_at > grown_at, timeout_s=240, what="some lives")
            assert not load.failed, load.failed[:3]
            await asyncio.to_thread(spiffe.authority.kill)
            calls_before = len(spiffe.calls(way.robin.pid))
            began_at = time.time()
            await until_refused(load, timeout_s=lifetime_s + 30)
            expires_at = max(one.verdict.expires_at for one in way.upstream.judgements)
            await eventually(lambda: time.time() > expires_at + 5, what="a while without any identity")
            assert len(spiffe.calls(way.robin.pid)) - calls_before <= tries_most(time.time() - began_at), "no tight loop"
            ended_at = time.time()
            await asyncio.to_thread(spiffe.start_authority)
            recovered = await way.upstream.until(lambda one: one.verdict.expires_at > expires_at, timeout_s=90, what="the recovery")
            grown_at = recovered.verdict.expires_at + more_lives * lifetime_s
            await way.upstream.until(lambda one: one.verdict.expires_at > grown_at, timeout_s=240, what="as many again")
        assert not way.upstream.refused, "no 401 at the upstream, before or after exp"
        way.check_the_end(load, lifetime_s=lifetime_s, expires_at=expires_at, ended_at=ended_at, recovered_at=recovered.at)

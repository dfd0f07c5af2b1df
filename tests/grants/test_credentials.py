"""Credentials end to end: `forward` straight from the identity, and grants that call a real issuer through driver and cache."""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from functools import partial

import pytest
from tests.grants.parts import Exchange, FixedIdentity, Issuer, SocketClient, new_token, permit
from tests.identity.parts import Parts

from robin.grants.bound import BoundCredentials, BoundGrant
from robin.grants.cache import CredentialCache
from robin.grants.forwarded import ForwardedCredentials
from robin.grants.grant import Flow, Grant, IssuedCredential
from robin.grants.run import GrantDriver
from robin.identity.issuer import IssuerRequest, IssuerResponse, IssuerUnreachable
from robin.model.credential import NO_CREDENTIAL, Credential
from robin.model.faults import Fault
from robin.model.secret import Secret
from robin.testing.waiting import eventually
from robin.wire.jwt_inspection import fingerprint

FORWARD, ISSUED = permit("forward"), permit("issued")


def line_of(credential: Credential | None) -> bytes:
    """The digest of the one line that would be injected."""
    assert credential is not None
    (line,) = credential.fields
    return fingerprint(line)


def digest(line: bytes) -> bytes:
    return hashlib.sha256(line).digest()


def bound_grant(name: str, grant: Grant, *, header: str = "X-Access", prefix: str = "") -> BoundGrant:
    return BoundGrant(provider=name, credential="t", header=header, prefix=prefix, grant=grant)


def bearer(name: str, identity: FixedIdentity) -> BoundGrant:
    """A grant that calls no issuer."""
    grant = Grant(name="forward", key=name, identity=identity, flow=Exchange("").flow, calls_issuer=False)
    return bound_grant(name, grant, header="Authorization", prefix="Bearer ")


class Stage:
    """Credentials with both kinds of grant, for one identity."""

    def __init__(self, issuer: Issuer, client: object | None = None) -> None:
        self.parts = Parts()
        self.identity = FixedIdentity()
        self.issuer = issuer
        clock, entropy = self.parts.clock, self.parts.dependencies.entropy
        self.credentials = BoundCredentials(
            cache=CredentialCache(clock=clock, entropy=entropy, tasks=self.parts.tasks),
            driver=GrantDriver(client or SocketClient(), clock=clock, entropy=entropy),  # type: ignore[arg-type]
            wall=clock.wall,
        )
        issued = Grant(name="issued", key="issued", identity=self.identity, flow=Exchange(issuer.url).flow)
        self.credentials.use({"issued": bound_grant("issued", issued), "forward": bearer("forward", self.identity)})

    async def fault(self) -> Fault:
        with pytest.raises(Fault) as raised:
            await self.credentials.obtain(ISSUED, {})
        return raised.value


@pytest.fixture
async def stage() -> AsyncIterator[Stage]:
    issuer = await Issuer().start()
    yield Stage(issuer)
    await issuer.close()


# forward


@pytest.mark.parametrize("plane", ["of a plane that calls no issuer", "of bindings"])
async def test_forward_injects_the_identity_token_as_one_line_built_once_per_token(stage: Stage, plane: str) -> None:
    identity = stage.identity
    alone = ForwardedCredentials({"forward": identity}, wall=stage.parts.clock.wall)
    credentials = stage.credentials if plane == "of bindings" else alone
    for _ in range(2):
        token = identity.token = new_token()
        first = credentials.ready(FORWARD)
        assert line_of(first) == digest(b"Authorization: Bearer " + token.value.reveal() + b"\r\n")
        assert first is not None
        assert first.identity is token
        assert credentials.ready(FORWARD) is first
        assert await credentials.obtain(FORWARD, {}) is first
    credentials.rejected(FORWARD, first)
    assert identity.refused == [first.identity]
    identity.token = None
    assert credentials.ready(FORWARD) is None
    with pytest.raises(Fault) as raised:
        await credentials.obtain(FORWARD, {})
    assert raised.value.code == "identity_unavailable"
    none = permit("")
    assert credentials.ready(none) is NO_CREDENTIAL
    assert await credentials.obtain(none, {}) is NO_CREDENTIAL
    credentials.rejected(none, NO_CREDENTIAL)
    assert len(identity.refused) == 1
    assert stage.issuer.bodies == []


# a grant that calls an issuer


async def test_an_issued_credential_is_fetched_once_for_all_and_then_ready(stage: Stage) -> None:
    assert stage.credentials.ready(ISSUED) is None
    assert stage.identity.token is not None
    found = await asyncio.gather(*(stage.credentials.obtain(ISSUED, {}) for _ in range(50)))
    assert stage.issuer.bodies == [b"assertion=" + stage.identity.token.value.reveal()]
    assert {line_of(credential) for credential in found} == {digest(b"X-Access: one\r\n")}
    ready = stage.credentials.ready(ISSUED)
    assert ready is found[0]
    assert ready is not None
    assert (ready.note, ready.identity) == ("issued/t", stage.identity.token)


async def test_a_401_of_the_origin_brings_another_credential(stage: Stage) -> None:
    first = await stage.credentials.obtain(ISSUED, {})
    stage.issuer.replies = [(200, {"access_token": "two"})]
    stage.credentials.rejected(ISSUED, first)
    assert line_of(await stage.credentials.obtain(ISSUED, {})) == digest(b"X-Access: two\r\n")


async def test_a_refusal_of_the_issuer_is_a_fault_without_a_second_call(stage: Stage) -> None:
    stage.issuer.replies = [(400, {"error": "invalid_client"})]
    for _ in range(5):
        fault = await stage.fault()
        assert fault.detail == "status_400: the issuer refused"
        assert fault.retry_after_s is not None
    assert len(stage.issuer.bodies) == 1


@pytest.mark.parametrize("fresh", [True, False])
async def test_a_refused_assertion_is_replaced_once_if_the_identity_has_another(stage: Stage, fresh: bool) -> None:
    old = stage.identity.token
    stage.identity.after_rejected = new_token() if fresh else None
    stage.issuer.replies = [(401, {}), (200, {"access_token": "two"})]
    if fresh:
        credential = await stage.credentials.obtain(ISSUED, {})
        assert line_of(credential) == digest(b"X-Access: two\r\n")
        assert credential.identity is stage.identity.after_rejected
    else:
        assert (await stage.fault()).detail.startswith("invalid_grant:")
    assert stage.identity.refused == [old]
    assert len(stage.issuer.bodies) == (2 if fresh else 1)


async def test_a_flight_repeats_one_call_at_most() -> None:
    refused = IssuerResponse(status=401, fields={}, body=Secret(b""))
    client = ScriptedClient(IssuerUnreachable("connect"), refused, refused)
    stage = Stage(Issuer(), client)
    stage.identity.after_rejected = new_token()
    assert (await stage.fault()).code == "subject_refused"
    assert client.calls == 2


async def test_without_an_identity_no_issuer_is_called(stage: Stage) -> None:
    stage.identity.token = None
    fault = await stage.fault()
    assert (fault.code, dict(fault.members)) == ("identity_unavailable", {"provider": "issued", "credential": "t"})
    assert stage.issuer.bodies == []


class ScriptedClient:
    """Raises or returns what it is given, in turn."""

    def __init__(self, *outcomes: IssuerUnreachable | IssuerResponse) -> None:
        self.outcomes = list(outcomes)
        self.calls = 0

    async def send(self, request: IssuerRequest, deadline_at: float) -> IssuerResponse:
        self.calls += 1
        outcome = self.outcomes.pop(0) if self.outcomes else IssuerUnreachable("connect")
        if isinstance(outcome, IssuerUnreachable):
            raise outcome
        return outcome


@pytest.mark.parametrize(
    ("outcome", "calls", "reason"),
    [
        (IssuerUnreachable("connect"), 2, "connect"),
        (IssuerUnreachable("closed"), 2, "connect"),
        (IssuerUnreachable("closed", answered=True), 1, "closed"),
        (IssuerUnreachable("protocol", answered=True), 1, "protocol"),
        (IssuerUnreachable("timeout"), 1, "timeout"),
        (IssuerUnreachable("tls"), 1, "tls"),
        (IssuerUnreachable("too_large", answered=True), 1, "too_large"),
    ],
)
async def test_only_a_connection_that_failed_before_a_response_is_tried_again(outcome: IssuerUnreachable, calls: int, reason: str) -> None:
    client = ScriptedClient(outcome)
    stage = Stage(Issuer(), client)
    assert (await stage.fault()).detail.startswith(f"{reason}:")
    assert client.calls == calls


async def test_closing_during_a_call_leaves_no_task(stage: Stage) -> None:
    stage.issuer.gate.clear()
    request = asyncio.ensure_future(stage.fault())
    await eventually(lambda: len(stage.issuer.bodies) == 1)
    await stage.parts.tasks.close()
    assert (await request).detail.startswith("internal:")
    assert len(stage.parts.tasks) == 0
    stage.issuer.gate.set()
    await eventually(lambda: stage.issuer.open == 0, what="the end of the issuer's connection")


async def test_no_credential_shows_its_token(stage: Stage) -> None:
    assert stage.identity.token is not None
    stage.issuer.replies = [(200, {"access_token": "issued-secret"})]
    shown = repr(await stage.credentials.obtain(ISSUED, {})) + repr(stage.credentials.ready(FORWARD))
    assert not any(part in shown for part in ("issued-secret", *stage.identity.token.value.reveal().decode().split(".")))


async def test_a_token_is_refreshed_by_the_grant_of_the_generation_in_force() -> None:
    parts = Parts()
    clock, entropy = parts.clock, parts.dependencies.entropy
    cache = CredentialCache(clock=clock, entropy=entropy, tasks=parts.tasks)
    credentials = BoundCredentials(cache=cache, driver=GrantDriver(SocketClient(), clock=clock, entropy=entropy), wall=clock.wall)
    issuers = [await Issuer().start(), await Issuer().start()]

    def flow(url: str, identity: object, now: float) -> Flow:
        yield IssuerRequest(method="POST", url=url, body=Secret(b"assertion"))
        return IssuedCredential(token=Secret(b"token"), usable_s=270)

    for issuer, name in zip(issuers, ("before", "after"), strict=True):
        grant = Grant(name="issued", key="one", identity=FixedIdentity(), flow=partial(flow, issuer.url))
        credentials.use({name: bound_grant(name, grant)})
        if name == "before":
            await credentials.obtain(permit(name), {})
    clock.advance(250)  # past 90 % of its usable time, and not at its end
    assert credentials.ready(permit("after")) is not None
    await eventually(lambda: len(parts.tasks) == 0, every_s=0, what="the refresh")
    assert [len(issuer.bodies) for issuer in issuers] == [1, 1]
    for issuer in issuers:
        await issuer.close()

"""The only driver of grants: it performs the requests that a flow yields and returns what the flow returns.

A request whose connection failed before a byte of a response is repeated once, after a short pause. A refused identity token is replaced
once, if the identity has another one. The number of requests of one flow is bounded.
"""

import asyncio
import math
from collections.abc import Awaitable, Callable
from typing import Final

from robin.grants.grant import Flow, GivenToken, Grant, GrantCall, GrantFailure, GrantFailureClass, Inputs, IssuedCredential
from robin.grants.rate import IssuerRate
from robin.identity.issuer import IssuerClient, IssuerRequest, IssuerResponse, IssuerUnreachable
from robin.model.credential import Credential
from robin.model.identity import IdentityToken
from robin.model.secret import Secret
from robin.transport.clock import Clock
from robin.transport.entropy import Entropy
from robin.wire.jwt_inspection import fingerprint
from robin.wire.oauth import parse_date

REQUESTS_MAX: Final = 8  # two calls for each of the four stages that a chain may have
_FINAL: Final = frozenset({"tls", "timeout", "too_large"})
_PAUSE_S: Final = 0.1
_PAUSE_SPREAD_S: Final = 0.2

Renew = Callable[[], Awaitable[GivenToken | None]]

_Call = tuple[int | None, float, float | None]
"""Status, duration, and the offset of the issuer's clock."""


def run_without_issuer(flow: Flow) -> IssuedCredential:
    """Run a flow that yields no request."""
    try:
        next(flow)
    except StopIteration as done:
        issued: IssuedCredential = done.value
        return issued
    flow.close()
    raise AssertionError("a grant without an issuer yielded a request")


class _Flight:
    """One run. It repeats one call at most: one whose connection failed, or with what replaces a subject that was refused."""

    __slots__ = ("deadline_at", "repeated")

    def __init__(self, deadline_at: float) -> None:
        self.deadline_at = deadline_at
        self.repeated = False


class GrantDriver:
    """Runs grants with one client.

    `timeout_s` bounds one run, from the identity to the last byte of the last response; `call_s` the wait for one call, and the call.
    """

    __slots__ = ("_call_s", "_client", "_clock", "_entropy", "_on_call", "_rate_of", "_timeout_s")

    def __init__(
        self,
        client: IssuerClient,
        *,
        clock: Clock,
        entropy: Entropy,
        timeout_s: float = 10.0,
        call_s: float = math.inf,
        rate_of: Callable[[str], IssuerRate] | None = None,
        on_call: Callable[[GrantCall], None] = lambda _: None,
    ) -> None:
        """`rate_of` returns the bound of the issuer of a URL; None: calls are not bounded. `on_call` is called with each that ended."""
        self._client = client
        self._clock = clock
        self._entropy = entropy
        self._timeout_s = timeout_s
        self._call_s = call_s
        self._rate_of = rate_of
        self._on_call = on_call

    async def run(
        self, grant: Grant, *, subject: GivenToken | None = None, actor: GivenToken | None = None, renew: Renew | None = None
    ) -> tuple[Credential, float]:
        """Return the credential and its usable seconds from now. Raises GrantFailure; Fault where there is no identity token, or no file.

        `renew` obtains what replaces a subject that the issuer refused, None where nothing does.
        """
        flight = _Flight(asyncio.get_running_loop().time() + self._timeout_s)
        identity = await _identity_of(grant)
        inputs = await self._inputs(grant, identity, subject, actor)
        try:
            return await self._try(grant, inputs, flight)
        except GrantFailure as failure:
            if failure.failure_class is not GrantFailureClass.REAUTHORIZE or flight.repeated:
                raise
            fresh = None if grant.identity is None or identity is None else await grant.identity.renew(identity)
            replaced = None if renew is None else await renew()
            if fresh is identity and replaced is None:
                raise
            inputs = await self._inputs(grant, fresh, replaced or subject, actor)
            flight.repeated = True
            return await self._try(grant, inputs, flight)

    async def _inputs(self, grant: Grant, identity: IdentityToken | None, subject: GivenToken | None, actor: GivenToken | None) -> Inputs:
        """All that one run of the flow is given."""
        audience = ""
        if grant.audience_of is not None:
            named = grant.audience_of.ready() or await grant.audience_of.obtain()
            if not named.subject:
                text = "bad_sub: the identity token has no subject that another token could be asked for"
                raise GrantFailure(GrantFailureClass.FIX_CONFIGURATION, "assertion_unsuitable", text)
            audience = named.subject
        key = None if grant.key_file is None else grant.key_file.ready()
        random_hex = self._entropy.token_hex
        return Inputs(identity=identity, subject=subject, actor=actor, key=key, audience=audience, random_hex=random_hex)

    async def _try(self, grant: Grant, inputs: Inputs, flight: _Flight) -> tuple[Credential, float]:
        """One run of the flow; each of its calls is reported."""
        identity = inputs.identity
        facts = {**grant.facts, "kind": grant.name, "identity_sub": None, "assertion_hash": None}
        if identity is not None:
            facts |= {"identity_sub": identity.subject, "assertion_hash": hash_of(identity.value)}
        if inputs.audience:
            facts["audience"] = inputs.audience
        calls: list[_Call] = []
        outcome, issuer_error = "failed", ""
        warnings: tuple[str, ...] = ()
        try:
            issued = await self._run_flow(grant.flow(inputs, self._clock.wall()), flight, calls)
            outcome, warnings = "issued", issued.warnings
            facts["scope_granted"] = None if issued.scopes is None else " ".join(sorted(issued.scopes))
            facts["usable_s"] = int(issued.usable_s)
            facts["issuer_request_id"] = issued.request_id or None
            if issued.token is not None:
                facts["token_hash"] = hash_of(issued.token)
        except GrantFailure as failure:
            outcome, issuer_error = failure.code, failure.issuer_error
            facts["issuer_request_id"] = failure.request_id or None
            raise
        finally:
            for status, duration_s, offset_s in calls:
                self._on_call(
                    GrantCall(
                        facts=facts,
                        status=status,
                        duration_s=duration_s,
                        outcome=outcome,
                        issuer_error=issuer_error,
                        offset_s=offset_s,
                        warnings=warnings,
                    )
                )
        credential = Credential(
            fields=issued.fields,
            note=grant.name,
            identity=identity,
            token=issued.token,
            single_use=issued.usable_s <= 0,
            facts=facts,
            issued_type=issued.issued_type,
            signing=issued.signing,
        )
        return credential, issued.usable_s

    async def _run_flow(self, flow: Flow, flight: _Flight, calls: list[_Call]) -> IssuedCredential:
        try:
            request = next(flow)
            for _ in range(REQUESTS_MAX):
                request = flow.send(await self._send(request, flight, calls))
        except StopIteration as done:
            issued: IssuedCredential = done.value
            return issued
        finally:
            flow.close()
        raise GrantFailure(GrantFailureClass.INVESTIGATE, "issuer_answer_invalid", "too_many_calls: the grant does not come to an end")

    async def _send(self, request: IssuerRequest, flight: _Flight, calls: list[_Call]) -> IssuerResponse:
        try:
            try:
                return await self._call(request, flight.deadline_at, calls)
            except IssuerUnreachable as unreachable:
                if unreachable.answered or unreachable.reason in _FINAL or not request.may_repeat or flight.repeated:
                    raise
                flight.repeated = True
                async with asyncio.timeout_at(flight.deadline_at):
                    await asyncio.sleep(_PAUSE_S + _PAUSE_SPREAD_S * self._entropy.uniform())
                return await self._call(request if request.anew is None else request.anew(), flight.deadline_at, calls)
        except TimeoutError:
            raise _unavailable("timeout") from None
        except IssuerUnreachable as unreachable:
            raise _unavailable(unreachable.reason) from None

    async def _call(self, request: IssuerRequest, deadline_at: float, calls: list[_Call]) -> IssuerResponse:
        """One call, when the issuer's bound lets it go. Raises TimeoutError at the deadline."""
        now = asyncio.get_running_loop().time
        if self._rate_of is None:
            return await self._within(request, min(deadline_at, now() + self._call_s), calls)
        async with self._rate_of(request.url).call(min(deadline_at - now(), self._call_s)):
            return await self._within(request, min(deadline_at, now() + self._call_s), calls)

    async def _within(self, request: IssuerRequest, deadline_at: float, calls: list[_Call]) -> IssuerResponse:
        """Raises TimeoutError at the deadline."""
        async with asyncio.timeout_at(deadline_at):
            return await self._timed(request, deadline_at, calls)

    async def _timed(self, request: IssuerRequest, deadline_at: float, calls: list[_Call]) -> IssuerResponse:
        """The call itself, noted with its status and duration when it ends."""
        began, status, offset_s = self._clock.monotonic(), None, None
        try:
            response = await self._client.send(request, deadline_at)
            status, date = response.status, parse_date(response.fields.get("date"))
            offset_s = None if date is None else date - self._clock.wall()
            return response
        finally:
            calls.append((status, self._clock.monotonic() - began, offset_s))


async def _identity_of(grant: Grant) -> IdentityToken | None:
    if grant.identity is None:
        return None
    if grant.fresh_identity:
        return await grant.identity.fresh()
    return grant.identity.ready() or await grant.identity.obtain()


def hash_of(secret: Secret) -> str:
    """How records name a token: the first 16 hex digits of its SHA-256."""
    return f"sha256:{fingerprint(secret).hex()[:16]}"


def _unavailable(reason: str) -> GrantFailure:
    if reason == "tls":
        text = "tls: the issuer's certificate is not trusted; correct the CA file or the token endpoint"
        return GrantFailure(GrantFailureClass.FIX_CONFIGURATION, "issuer_tls_failed", text)
    if reason == "too_large":
        text = "too_large: the issuer's response is too large; check the issuer"
        return GrantFailure(GrantFailureClass.INVESTIGATE, "issuer_answer_invalid", text)
    return GrantFailure(GrantFailureClass.RETRY, "issuer_unavailable", f"{reason}: the issuer gave no response; check the issuer")

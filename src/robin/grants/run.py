"""The only driver of grants: it performs the requests that a flow yields and returns what the flow returns.

A request whose connection failed before a byte of a response is repeated once, after a short pause. A refused identity token is replaced
once, if the identity has another one. The number of requests of one flow is bounded.
"""

import asyncio
from collections.abc import Callable
from typing import Final

from robin.grants.grant import Flow, Grant, GrantFailure, GrantFailureClass, IssuedCredential
from robin.grants.rate import IssuerRate
from robin.identity.issuer import IssuerClient, IssuerRequest, IssuerResponse, IssuerUnreachable
from robin.model.credential import Credential
from robin.transport.clock import Clock
from robin.transport.entropy import Entropy

REQUESTS_MAX: Final = 8  # two calls for each of the four stages that a chain may have
_FINAL: Final = frozenset({"tls", "timeout", "too_large"})
_PAUSE_S: Final = 0.1
_PAUSE_SPREAD_S: Final = 0.2


def run_without_issuer(flow: Flow) -> IssuedCredential:
    """Run a flow that yields no request."""
    try:
        next(flow)
    except StopIteration as done:
        issued: IssuedCredential = done.value
        return issued
    flow.close()
    raise AssertionError("a grant without an issuer yielded a request")


class GrantDriver:
    """Runs grants with one client. `timeout_s` bounds one run, from the identity to the last byte of the last response."""

    __slots__ = ("_client", "_clock", "_entropy", "_rate_of", "_timeout_s")

    def __init__(
        self,
        client: IssuerClient,
        *,
        clock: Clock,
        entropy: Entropy,
        timeout_s: float = 10.0,
        rate_of: Callable[[str], IssuerRate] | None = None,
    ) -> None:
        """`rate_of` returns the bound of the issuer of a URL; None: calls are not bounded."""
        self._client = client
        self._clock = clock
        self._entropy = entropy
        self._timeout_s = timeout_s
        self._rate_of = rate_of

    async def run(self, grant: Grant) -> tuple[Credential, float]:
        """Return the credential and its usable seconds from now. Raises GrantFailure; Fault where there is no identity token."""
        deadline_at = asyncio.get_running_loop().time() + self._timeout_s
        token = grant.identity.ready() or await grant.identity.obtain()
        try:
            issued = await self._run_flow(grant.flow(token, self._clock.wall()), deadline_at)
        except GrantFailure as failure:
            if failure.failure_class is not GrantFailureClass.REAUTHORIZE:
                raise
            fresh = await grant.identity.renew(token)
            if fresh is token:
                raise
            token = fresh
            issued = await self._run_flow(grant.flow(token, self._clock.wall()), deadline_at)
        return Credential(fields=issued.fields, note=grant.name, identity=token, token=issued.token), issued.usable_s

    async def _run_flow(self, flow: Flow, deadline_at: float) -> IssuedCredential:
        try:
            request = next(flow)
            for _ in range(REQUESTS_MAX):
                request = flow.send(await self._send(request, deadline_at))
        except StopIteration as done:
            issued: IssuedCredential = done.value
            return issued
        finally:
            flow.close()
        raise GrantFailure(GrantFailureClass.INVESTIGATE, "issuer_answer_invalid", "too_many_calls: the grant does not come to an end")

    async def _send(self, request: IssuerRequest, deadline_at: float) -> IssuerResponse:
        try:
            try:
                return await self._call(request, deadline_at)
            except IssuerUnreachable as unreachable:
                if unreachable.answered or unreachable.reason in _FINAL:
                    raise
                async with asyncio.timeout_at(deadline_at):
                    await asyncio.sleep(_PAUSE_S + _PAUSE_SPREAD_S * self._entropy.uniform())
                return await self._call(request, deadline_at)
        except TimeoutError:
            raise _unavailable("timeout") from None
        except IssuerUnreachable as unreachable:
            raise _unavailable(unreachable.reason) from None

    async def _call(self, request: IssuerRequest, deadline_at: float) -> IssuerResponse:
        """One call, when the issuer's bound lets it go. Raises TimeoutError at the deadline."""
        if self._rate_of is None:
            async with asyncio.timeout_at(deadline_at):
                return await self._client.send(request, deadline_at)
        left_s = deadline_at - asyncio.get_running_loop().time()
        async with self._rate_of(request.url).call(left_s), asyncio.timeout_at(deadline_at):
            return await self._client.send(request, deadline_at)


def _unavailable(reason: str) -> GrantFailure:
    if reason == "tls":
        text = "tls: the issuer's certificate is not trusted; correct the CA file or the token endpoint"
        return GrantFailure(GrantFailureClass.FIX_CONFIGURATION, "issuer_tls_failed", text)
    if reason == "too_large":
        text = "too_large: the issuer's response is too large; check the issuer"
        return GrantFailure(GrantFailureClass.INVESTIGATE, "issuer_answer_invalid", text)
    return GrantFailure(GrantFailureClass.RETRY, "issuer_unavailable", f"{reason}: the issuer gave no response; check the issuer")

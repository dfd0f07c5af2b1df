"""The credential of a forwarded request: the decision is written, a token is minted, and that is written too, in this order.

A `grants.grant.Credentials`: the engine asks it for the credential of a Permit, whose caller is the authenticated agent of one request.
"""

import asyncio
from typing import Final

from robin.model.credential import Credential
from robin.model.faults import Fault
from robin.model.secret import Secret
from robin.model.verdict import Permit
from robin.planes.kube.agents import HoldsPolicy
from robin.planes.kube.audit import KubeAudit
from robin.planes.kube.exchange import Agent, KubeExchange
from robin.planes.kube.minting import Minter
from robin.planes.kube.startup import StartupChecks
from robin.transport.clock import Clock

GRANT: Final = "jit"


class JitCredentials:
    """Mints one token for each request."""

    __slots__ = ("_audit", "_checks", "_clock", "_minter", "_policies", "mints")

    def __init__(self, minter: Minter, audit: KubeAudit, policies: HoldsPolicy, checks: StartupChecks, clock: Clock) -> None:
        self._minter = minter
        self._audit = audit
        self._policies = policies
        self._checks = checks
        self._clock = clock
        self.mints: dict[str, int] = {}
        """Mints by result: `ok`, or the code."""

    def ready(self, permit: Permit) -> Credential | None:
        """The token that was minted for this very request, while it may be used."""
        exchange = _exchange_of(permit)
        return exchange.credential if exchange.credential is not None and self._clock.monotonic() < exchange.usable_until else None

    async def obtain(self, permit: Permit) -> Credential:
        """Write the decision, mint, write that. Raises Fault."""
        exchange = _exchange_of(permit)
        if not exchange.decided:
            await self._audit.decided(exchange)
        if not self._checks.passed:
            raise Fault("kube.mint_unavailable", f"startup: the checks of the cluster have not passed ({', '.join(self._checks.failures)})")
        settings = self._minter.settings
        agent = self._policies.policy.agents.get(exchange.agent)
        exchange.account = settings.account_of(exchange.agent, agent.service_account if agent else "")
        secret, began_at = settings.secret_of(exchange.agent), self._clock.monotonic()
        result = "ok"
        try:
            minted = await self._minter.mint(account=exchange.account, secret=secret, audit_id=exchange.id)
        except Fault as fault:
            result = fault.code
            raise
        finally:
            self.mints[result] = self.mints.get(result, 0) + 1
        fields = {
            "account": exchange.account,
            "namespace": settings.namespace,
            "jti": minted.jti,
            "asked_s": minted.asked_s,
            "granted_s": minted.granted_s,
            "effective_s": minted.effective_s,
            "bound": secret or None,
            "mint_ms": int((self._clock.monotonic() - began_at) * 1000),
            "mint_audit_id": exchange.id,
        }
        await self._audit.minted(exchange, fields)
        exchange.jti, exchange.usable_until = minted.jti, minted.usable_until
        _limit(permit, minted.usable_until - self._clock.monotonic(), self._clock.wall())
        exchange.credential = Credential(fields=(_line(minted.authorization),), note=GRANT, identity=None)
        return exchange.credential

    def rejected(self, permit: Permit, credential: Credential) -> None:
        """A token is used once: there is nothing to refresh."""

    async def renew(self, permit: Permit, credential: Credential) -> Credential | None:
        """None: a 401 stands; the next request has a token of its own."""


def _limit(permit: Permit, token_s: float, now: float) -> None:
    """A session that lasts ends with what allowed it: the token, the rule or the credential of the agent, whichever ends first."""
    agent = permit.caller
    assert isinstance(agent, Agent)
    exchange = agent.exchange
    request, decision = exchange.request, exchange.decision
    if request is None or decision is None or not request.info.long_running:
        return
    ends = {
        "token_expiry": token_s,
        "max_session": decision.max_session_s,
        "rule_expired": None if decision.expires_at is None else decision.expires_at - now,
        "identity_expired": None if exchange.identity_ends_at is None else exchange.identity_ends_at - now,
    }
    left = {reason: left_s for reason, left_s in ends.items() if left_s is not None}
    reason = min(left, key=left.__getitem__)
    exchange.stop_timer()
    exchange.cut = asyncio.get_running_loop().call_later(left[reason], _cut, agent, reason)


def _cut(agent: Agent, reason: str) -> None:
    agent.exchange.end_reason = reason
    agent.reset()


def _line(authorization: Secret) -> Secret:
    return authorization.wrapped(b"Authorization: ", b"\r\n")


def _exchange_of(permit: Permit) -> KubeExchange:
    assert isinstance(permit.caller, Agent)
    return permit.caller.exchange

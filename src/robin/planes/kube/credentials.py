"""The credential of a forwarded request: the decision is written, a token is minted, and that is written too, in this order.

A `grants.grant.Credentials`: the engine asks it for the credential of a Permit, whose caller is the authenticated agent of one request.
"""

from typing import Final

from robin.model.credential import Credential
from robin.model.faults import Fault
from robin.model.secret import Secret
from robin.model.verdict import Permit
from robin.planes.kube.audit import KubeAudit
from robin.planes.kube.exchange import Agent, KubeExchange
from robin.planes.kube.metrics import KubeMetrics
from robin.planes.kube.minting import Minted, Minter
from robin.planes.kube.sessions import Ends, Sessions
from robin.planes.kube.startup import StartupChecks
from robin.transport.clock import Clock

GRANT: Final = "jit"
_WARNING: Final = b'Warning: 299 robin "the cluster granted a token of %d s in place of %d s"\r\n'


class JitCredentials:
    """Mints one token for each request."""

    __slots__ = ("_audit", "_checks", "_clock", "_max_session_s", "_metrics", "_minter", "_sessions")

    def __init__(
        self,
        minter: Minter,
        audit: KubeAudit,
        checks: StartupChecks,
        sessions: Sessions,
        metrics: KubeMetrics,
        clock: Clock,
        *,
        max_session_s: float | None,
    ) -> None:
        """`max_session_s` replaces the life of the token as the limit of a session, None: it does not."""
        self._minter = minter
        self._audit = audit
        self._checks = checks
        self._sessions = sessions
        self._metrics = metrics
        self._max_session_s = max_session_s
        self._clock = clock

    def ready(self, permit: Permit) -> Credential | None:
        """The token that was minted for this very request, while it may be used."""
        exchange = _agent_of(permit).exchange
        return exchange.credential if exchange.credential is not None and self._clock.monotonic() < exchange.usable_until else None

    async def obtain(self, permit: Permit, notes: dict[str, object]) -> Credential:
        """Write the decision, mint, write that. Raises Fault."""
        agent = _agent_of(permit)
        exchange, minter, clock = agent.exchange, self._minter, self._clock
        if not exchange.decided:
            exchange.decide_s = clock.monotonic() - exchange.began_at
            if exchange.kind:
                self._sessions.begin(agent)  # at once: a policy that is loaded from here on judges it again
            await self._audit.decided(exchange)
        if not self._checks.passed:
            raise Fault("kube.mint_unavailable", f"startup: the checks of the cluster have not passed ({', '.join(self._checks.failures)})")
        exchange.account = minter.settings.account_of(exchange.agent, exchange.service_account)
        secret, began_at = minter.settings.secret_of(exchange.agent), clock.monotonic()
        if not self._checks.is_sound(exchange.account, secret):
            raise Fault("kube.mint_unavailable", f"startup: the account {exchange.account} has not passed the checks of the cluster")
        result = "ok"
        try:
            minted = await minter.mint(account=exchange.account, secret=secret, audit_id=exchange.id)
        except Fault as fault:
            result = fault.code
            raise
        finally:
            exchange.mint_s = clock.monotonic() - began_at
            self._metrics.mints[result] += 1
        self._metrics.note_token(minted)
        await self._audit.minted(exchange, _record_of(exchange, minted, namespace=minter.settings.namespace, secret=secret))
        if not exchange.still_allowed():
            raise Fault("kube.denied", "the policy, or the credential of the agent, changed meanwhile and does not allow it any more")
        exchange.jti, exchange.usable_until = minted.jti, minted.usable_until
        if minted.granted_s < minted.asked_s:
            exchange.warning = _WARNING % (minted.granted_s, minted.asked_s)
        if exchange.kind:
            self._sessions.end_after(agent, self._ends(exchange))
        exchange.credential = Credential(fields=(_line(minted.authorization),), note=GRANT, identity=None)
        return exchange.credential

    def _ends(self, exchange: KubeExchange) -> Ends:
        """A session ends with what allowed it: the token, the rule or the credential of the agent, whichever ends first."""
        assert exchange.decision is not None
        decision, now = exchange.decision, self._clock.wall()
        own_s = self._max_session_s
        return {
            "token_expiry": exchange.usable_until - self._clock.monotonic() if own_s is None else None,
            "max_session": min((left_s for left_s in (own_s, decision.max_session_s) if left_s is not None), default=None),
            "rule_expired": None if decision.expires_at is None else decision.expires_at - now,
            "identity_expired": None if exchange.identity_ends_at is None else exchange.identity_ends_at - now,
        }

    def rejected(self, permit: Permit, credential: Credential) -> None:
        """A token is used once: there is nothing to refresh."""

    async def renew(self, permit: Permit, credential: Credential) -> Credential | None:
        """None: a 401 stands; the next request has a token of its own."""


def _record_of(exchange: KubeExchange, minted: Minted, *, namespace: str, secret: str) -> dict[str, object]:
    return {
        "account": exchange.account,
        "namespace": namespace,
        "jti": minted.jti,
        "asked_s": minted.asked_s,
        "granted_s": minted.granted_s,
        "effective_s": minted.effective_s,
        "bound": secret or None,
        "mint_ms": int(exchange.mint_s * 1000),
        "mint_audit_id": exchange.id,
    }


def _line(authorization: Secret) -> Secret:
    return authorization.wrapped(b"Authorization: ", b"\r\n")


def _agent_of(permit: Permit) -> Agent:
    assert isinstance(permit.caller, Agent)
    return permit.caller

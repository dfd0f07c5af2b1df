"""What the plane knows of one request beside the engine's record: who asks, what it means, the decision, the minted token."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from robin.model.caller import Caller
from robin.model.credential import Credential
from robin.model.faults import Fault
from robin.policy.kube.judge import Decision, KubeRequest


class KubeExchange:
    """Filled in as the request proceeds; it belongs to that request alone. `id` is the decision id, a UUIDv7, and the Audit-ID sent.

    `at` is epoch time. `identity_ends_at`: when the agent's own credential expires, None where it does not.
    """

    __slots__ = (
        "account",
        "agent",
        "at",
        "authn",
        "body_bytes",
        "body_sha256",
        "credential",
        "cut",
        "decided",
        "decision",
        "end_reason",
        "id",
        "identity",
        "identity_ends_at",
        "jti",
        "peer",
        "policy_digest",
        "request",
        "usable_until",
    )

    def __init__(self, *, id_: str, agent: str, identity: str, authn: str, peer: str, at: float, identity_ends_at: float | None) -> None:
        self.id = id_
        self.agent = agent
        self.identity = identity
        self.authn = authn
        self.peer = peer
        self.at = at
        self.identity_ends_at = identity_ends_at
        self.request: KubeRequest | None = None
        self.decision: Decision | None = None
        self.policy_digest = ""
        self.body_bytes = 0
        self.body_sha256 = ""
        self.decided = False  # `request.decided` is written
        self.credential: Credential | None = None
        self.account = ""
        self.jti = ""
        self.cut: asyncio.TimerHandle | None = None  # ends a session that lasts
        self.end_reason = ""  # why it was cut
        self.usable_until = 0.0  # monotonic: no attempt starts later

    def stop_timer(self) -> None:
        """The session has ended by itself, or gets another end."""
        if self.cut is not None:
            self.cut.cancel()
            self.cut = None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Connected(Caller):
    """The caller of one connection. `reset` ends the connection so that what the caller got does not look like the whole."""

    reset: Callable[[], None]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Agent(Connected):
    """The caller of one request, authenticated."""

    exchange: KubeExchange


class KubeFault(Fault):
    """A fault with the code of the plane, and the request that it is about, if that is known."""

    def __init__(self, code: str, detail: str, *, exchange: KubeExchange | None = None, retry_after_s: float | None = None) -> None:
        super().__init__(code, detail, retry_after_s=retry_after_s)
        self.exchange = exchange

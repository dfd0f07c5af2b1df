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

    `began_at` is monotonic. `identity_ends_at`: when the agent's own credential expires, None
    where it does not. `token`: the digest of its bearer, empty where a certificate alone authenticated it.
    `trust`: the number of the set of roots by which its certificate was verified.
    """

    __slots__ = (
        "account",
        "agent",
        "authn",
        "began_at",
        "body_bytes",
        "body_sha256",
        "credential",
        "cut",
        "decide_s",
        "decided",
        "decision",
        "end_reason",
        "id",
        "identity",
        "identity_ends_at",
        "jti",
        "mint_s",
        "peer",
        "policy_digest",
        "request",
        "service_account",
        "still_allowed",
        "token",
        "trust",
        "usable_until",
        "warning",
    )

    def __init__(
        self,
        *,
        id_: str,
        agent: str,
        identity: str,
        authn: str,
        peer: str,
        began_at: float,
        identity_ends_at: float | None,
        token: str = "",
        trust: int = 0,
    ) -> None:
        self.id = id_
        self.agent = agent
        self.identity = identity
        self.authn = authn
        self.peer = peer
        self.began_at = began_at
        self.token = token
        self.trust = trust
        self.identity_ends_at = identity_ends_at
        self.request: KubeRequest | None = None
        self.decision: Decision | None = None
        self.policy_digest = ""
        self.body_bytes = 0
        self.body_sha256 = ""
        self.decided = False  # `request.decided` is written
        self.credential: Credential | None = None
        self.service_account = ""  # that the deciding policy gives the agent, empty: the one of the settings
        self.still_allowed: Callable[[], bool] = lambda: False  # by the policy in force now
        self.account = ""
        self.jti = ""
        self.cut: asyncio.TimerHandle | None = None  # ends a session that lasts
        self.end_reason = ""  # why it was cut
        self.usable_until = 0.0  # monotonic: no attempt starts later
        self.decide_s = 0.0  # until the decision was made
        self.mint_s = 0.0
        self.warning = b""  # a line for the response

    @property
    def kind(self) -> str:
        """What lasts: `watch`, or the subresource; empty for a request that does not."""
        info = None if self.request is None else self.request.info
        if info is None or not info.long_running:
            return ""
        return info.subresource or info.verb

    def stop_timer(self) -> None:
        """The session has ended by itself, or gets another end."""
        if self.cut is not None:
            self.cut.cancel()
            self.cut = None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Connected(Caller):
    """The caller of one connection.

    `reset` ends the connection so that what the caller got does not look like the whole; `end` ends a response as a whole message.
    """

    reset: Callable[[], None]
    end: Callable[[], None]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Agent(Connected):
    """The caller of one request, authenticated."""

    exchange: KubeExchange


class KubeFault(Fault):
    """A fault with the code of the plane, and the request that it is about, if that is known."""

    def __init__(self, code: str, detail: str, *, exchange: KubeExchange | None = None, retry_after_s: float | None = None) -> None:
        super().__init__(code, detail, retry_after_s=retry_after_s)
        self.exchange = exchange

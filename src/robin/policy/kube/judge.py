"""The judgement of one request: malformed, denied, or allowed at a tier; pure (spec of the plane, sections 4 to 7).

Two steps, as the body comes after the head: `read_request` refuses what is malformed and returns what the request means, `judge` takes the
body and gives the decision. `robin explain kube` calls the same two, and `explain` for the words.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Final

from robin.policy.kube.body import NO_BODY, Body, changed_paths, raised_tier, read_body
from robin.policy.kube.grave_fields import weigh_of
from robin.policy.kube.request_info import UPGRADABLE, RequestInfo, read_request_info
from robin.policy.kube.rules import ALLOW, DENY, ESCALATE, Agent, PolicyDocument, Rule, Scope, covers, runbook_fits, touches, why_not
from robin.policy.kube.target import METHODS, Malformed, Target, parse_target
from robin.policy.kube.tiers import BaseTier, TierSettings, base_tier

CARRIED: Final = frozenset({("GET", "websocket"), ("POST", "spdy/3.1")})
"""The upgrades that are carried: method and protocol."""

LOGIN_PROTOCOL: Final = "base64url.bearer.authorization.k8s.io."
_BODY_METHODS: Final = frozenset({"POST", "PUT", "PATCH", "DELETE"})
_READS: Final = frozenset({"get", "list", "watch"})


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadFacts:
    """What the judgement needs of a request head. `upgrade`: the protocol of a clean upgrade in lower case, else empty.

    `asks_upgrade`: there is an Upgrade field at all. `protocols`: the values of Sec-WebSocket-Protocol, None where there is no such field.
    """

    method: str
    target: bytes
    names: tuple[str, ...] = ()
    upgrade: str = ""
    asks_upgrade: bool = False
    protocols: tuple[str, ...] | None = None
    content_type: str = ""
    content_encoding: str = ""
    has_body: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class KubeRequest:
    """A well-formed request. `subprotocols`: those of a WebSocket that go on, without any that carries a login."""

    method: str
    target: Target
    info: RequestInfo
    upgrade: str
    subprotocols: tuple[str, ...]
    content_type: str
    reads_body: bool

    @property
    def dry_run(self) -> bool:
        """Whether it asks for exactly one `dryRun=All`."""
        return self.target.values("dryRun") == ["All"]


@dataclass(frozen=True, slots=True, kw_only=True)
class KubePolicySettings:
    """What the judgement needs of the settings. `protected`: the namespace of Robin's accounts, empty: none is protected."""

    tiers: TierSettings = field(default_factory=TierSettings)
    inspect_bodies: str = "strict"
    lower_dry_run: bool = True
    protected: str = ""
    max_target: int = 8192


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """`code` is empty for an allow. `tier` is the effective one, `base_tier` the one before anything lowered it."""

    decision: str
    code: str
    tier: int
    base_tier: int
    tier_reason: str
    rule: str
    max_session_s: float | None = None
    expires_at: float | None = None


def read_request(head: HeadFacts, settings: KubePolicySettings) -> KubeRequest:
    """What the request means. Raises Malformed."""
    target = parse_target(head.target, max_bytes=settings.max_target)
    if head.method not in METHODS:
        raise Malformed("kube.method", "method: the API takes GET, HEAD, POST, PUT, PATCH and DELETE")
    info = read_request_info(head.method, target)
    subprotocols = _check_upgrade(head, info)
    if any(name.startswith("impersonate-") for name in head.names):
        raise Malformed("kube.impersonation", "impersonation: no agent may act as another user; remove --as")
    proxied = info.subresource == "proxy" and info.is_resource
    reads_body = head.method in _BODY_METHODS and not head.upgrade
    if head.has_body and not reads_body:
        raise Malformed("kube.body_unexpected", "body: this request cannot have a body")
    if head.has_body and head.content_encoding.lower() not in ("", "identity") and not proxied:
        raise Malformed("kube.body_encoding", "encoding: a coded body cannot be judged; send it as it is")
    return KubeRequest(
        method=head.method,
        target=target,
        info=info,
        upgrade=head.upgrade,
        subprotocols=subprotocols,
        content_type=head.content_type,
        reads_body=reads_body and head.has_body,
    )


def _check_upgrade(head: HeadFacts, info: RequestInfo) -> tuple[str, ...]:
    """The subprotocols that go on. Raises Malformed `kube.upgrade`."""
    offered = [part.strip() for value in head.protocols or () for part in value.split(",")]
    kept = tuple(part for part in offered if part and not part.lower().startswith(LOGIN_PROTOCOL))
    if not head.asks_upgrade:
        return kept
    if not info.is_resource or info.subresource not in UPGRADABLE:
        raise Malformed("kube.upgrade", "upgrade: only exec, attach, portforward and proxy may switch protocols")
    if (head.method, head.upgrade) not in CARRIED:
        raise Malformed("kube.upgrade", "upgrade: WebSocket is carried with GET, SPDY/3.1 with POST")
    if head.protocols is not None and not kept:
        raise Malformed("kube.upgrade", "upgrade: no subprotocol is left, since one that carries a token is no login here")
    return kept


def read_content(request: KubeRequest, octets: bytes | None) -> Body:
    """The body as the judgement takes it."""
    return NO_BODY if octets is None else read_body(octets, request.content_type)


def judge(
    request: KubeRequest, body: Body, agent_name: str, policy: PolicyDocument, settings: KubePolicySettings, *, now: float
) -> Decision:
    """The decision. `now` is epoch time, for rules that expire."""
    info, agent = request.info, policy.agents.get(agent_name)
    base, unlowered, reason = _unlowered(request, body, settings)
    tier = _lowered(request, base, unlowered, settings)
    if _is_protected(info, settings.protected):
        return _deny("kube.protected", tier, base.tier, reason, "built-in")
    if agent is None:
        return _deny("kube.unknown_agent", tier, base.tier, reason, "")
    rules = [rule for rule in agent.rules if rule.expires_at is None or now < rule.expires_at]
    scope = Scope.of(info, body)
    changed_by = cache(partial(changed_paths, body))  # it costs time, and most requests fit no runbook
    if any(_runs(rule, policy, scope, changed_by, unlowered) for rule in rules):
        tier = 1
    if tier != unlowered:
        reason += f"; lowered from {unlowered}"
    found = _decide(rules, scope, tier, unlowered)
    limits = [rule.max_session_s for rule in found[1] if rule.max_session_s is not None]
    ends = [rule.expires_at for rule in found[1] if rule.expires_at is not None]
    return Decision(
        decision=found[0],
        code={ALLOW: "", ESCALATE: "kube.approval_unavailable"}.get(found[0], "kube.denied"),
        tier=tier,
        base_tier=base.tier,
        tier_reason=reason,
        rule=found[1][0].name if found[1] else "",
        max_session_s=min(limits, default=None),
        expires_at=min(ends, default=None),
    )


def explain(
    request: KubeRequest,
    body: Body,
    agent_name: str,
    policy: PolicyDocument,
    settings: KubePolicySettings,
    decision: Decision,
    *,
    now: float,
) -> dict[str, str]:
    """What each rule of the agent says, for people; empty where no rule was asked. `decision` is the one of `judge`, `now` too."""
    agent = policy.agents.get(agent_name)
    if agent is None or _is_protected(request.info, settings.protected):
        return {}
    unlowered, scope = _unlowered(request, body, settings)[1], Scope.of(request.info, body)
    return {rule.name: _explain(rule, scope, decision.tier, unlowered, now) for rule in agent.rules}


def _deny(code: str, tier: int, base: int, reason: str, rule: str) -> Decision:
    return Decision(decision=DENY, code=code, tier=tier, base_tier=base, tier_reason=reason, rule=rule)


def _unlowered(request: KubeRequest, body: Body, settings: KubePolicySettings) -> tuple[BaseTier, int, str]:
    """The tier by the table, the tier after the body raised it, and why."""
    info = request.info
    base = base_tier(info, settings.tiers)
    tier, reason = base.tier, base.reason
    weigh = weigh_of(info.group, info.resource, classified=base.classified)
    if weigh is not None and not info.subresource and info.verb in ("create", "update", "patch"):
        raised = raised_tier(body, settings.inspect_bodies, weigh)
        if raised.tier > tier:
            tier, reason = raised.tier, raised.reason
    return base, tier, reason


def _lowered(request: KubeRequest, base: BaseTier, tier: int, settings: KubePolicySettings) -> int:
    """A dry run of a write of tier 2 changes nothing."""
    writes = request.info.verb in ("create", "update", "patch")
    return 1 if settings.lower_dry_run and writes and tier == 2 and base.known and request.dry_run else tier


def _runs(rule: Rule, policy: PolicyDocument, scope: Scope, changed_by: Callable[[], list[str] | None], tier: int) -> bool:
    if tier >= 4 or not rule.runbooks or not covers(rule, scope):
        return False
    books = [policy.runbooks[name] for name in rule.runbooks]
    return any(tier <= book.max_tier and runbook_fits(book, scope.info, changed_by) for book in books)


def _decide(rules: list[Rule], scope: Scope, tier: int, unlowered: int) -> tuple[str, list[Rule]]:
    """Deny before escalate before allow; silence denies. The order of the rules is irrelevant."""
    denies = [rule for rule in rules if DENY in (rule.tiers.get(tier), rule.tiers.get(unlowered)) and touches(rule, scope)]
    if denies:
        return DENY, denies
    escalates = [rule for rule in rules if rule.tiers.get(tier) == ESCALATE and touches(rule, scope)]
    if escalates:
        return ESCALATE, escalates
    allows = [rule for rule in rules if rule.tiers.get(tier) == ALLOW and covers(rule, scope)]
    return (ALLOW, allows) if allows else (DENY, [])


def _explain(rule: Rule, scope: Scope, tier: int, unlowered: int, now: float) -> str:
    if rule.expires_at is not None and now >= rule.expires_at:
        return "no match: the rule has expired"
    if DENY in (rule.tiers.get(tier), rule.tiers.get(unlowered)) and touches(rule, scope):
        return "matches: deny"
    if rule.tiers.get(tier) == ESCALATE and touches(rule, scope):
        return "matches: escalate"
    missing = why_not(rule, scope, tier)
    return f"no match: {missing}" if missing else f"matches: {rule.tiers[tier]}"


def _is_protected(info: RequestInfo, protected: str) -> bool:
    """The denials that no policy can lift: what would reach Robin's own accounts."""
    if not protected or not info.is_resource:
        return False
    if not info.namespace:
        return info.verb == "deletecollection" or (info.resource == "secrets" and info.verb in _READS)
    if info.namespace != protected:
        return False
    return info.verb not in _READS or info.resource == "secrets" or info.subresource != ""


def agent_of(policy: PolicyDocument, identity: str) -> Agent | None:
    """The agent that owns an identity."""
    return next((agent for agent in policy.agents.values() if identity in agent.identities), None)

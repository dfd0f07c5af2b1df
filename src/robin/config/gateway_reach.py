"""Checks of providers against listeners and rules: credentials are not for callers without a name, nor where TLS stays closed."""

from collections.abc import Iterator, Sequence

from robin.config.diagnostic import Diagnostic, Position
from robin.config.providers import ProviderPlan
from robin.planes.gateway.settings import ListenerSettings
from robin.policy.callers import EVERY_CALLER, OPEN_CALLER, callers_meet
from robin.policy.overlap import witness_host
from robin.policy.rules import Rule, RuleSet
from robin.policy.select import Binding


def check_reach(rules: RuleSet, plan: ProviderPlan, listeners: Sequence[ListenerSettings]) -> Iterator[Diagnostic]:
    """What is wrong."""
    places = {provider.name: provider.at for provider in plan.attached}
    for provider in plan.attached:
        for listener in listeners:
            if listener.unsafe_open and provider.callers & {EVERY_CALLER, OPEN_CALLER}:
                text = f"everyone who reaches the listener {listener.name} could use the provider {provider.name}"
                yield _error(provider.at, "provider_needs_identity", text, "name callers of other listeners, or remove unsafe_open")
    told: set[tuple[str, str]] = set()
    for rule in [one for one in rules.rules if one.allow and (one.tls == "passthrough" or "tcp" in one.ports)]:
        for binding in plan.settings.bindings:
            if _blinds(rule, binding) and (rule.name, binding.provider) not in told:
                told.add((rule.name, binding.provider))
                text = f"the rule {rule.name} leaves TLS closed to {binding.host.text}, where {binding.label} writes a credential"
                fix = "remove tls: passthrough or tcp, or narrow one of them"
                yield _error(places[binding.provider], "passthrough_blind", text, fix)


def _blinds(rule: Rule, binding: Binding) -> bool:
    """Whether the rule lets connections pass unseen to a place where the binding would write a credential."""
    if binding.scheme != "https":
        return False
    ports = rule.ports.get("tcp", frozenset())
    if rule.tls == "passthrough":
        ports |= rule.ports.get("https", frozenset())
    if binding.port not in ports or not any(witness_host(host, binding.host) for host in rule.hosts):
        return False
    return any(callers_meet(one.text, other) for one in rule.callers for other in binding.callers)


def _error(at: Position, code: str, message: str, fix: str) -> Diagnostic:
    return Diagnostic(at=at, code=code, message=message, fix=fix)

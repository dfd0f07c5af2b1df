"""The policy of one generation of settings: the same for requests and for `robin explain gateway`."""

from collections.abc import Callable

from robin.model.message import RequestHead
from robin.model.route import HeaderRules, RouteDeadlines
from robin.model.verdict import LocalResponse
from robin.planes.gateway.settings import GatewaySettings
from robin.policy.gateway import GatewayPolicy
from robin.policy.providers import Providers
from robin.policy.reverse import ReversePolicy


def build_policy(
    settings: GatewaySettings, generation: int = 1, *, local: Callable[[RequestHead], LocalResponse | None] = lambda _: None
) -> GatewayPolicy:
    """Pure. `generation` is part of the key of pooled connections, so those of an older one are not used again."""
    grants = settings.grants
    strip = frozenset(name.encode("ascii") for name in grants.strip)
    header_rules = HeaderRules(via=b"1.1 " + settings.name.encode("ascii"), strip=strip)
    deadlines = RouteDeadlines(response_s=settings.deadlines.response_s, stream_idle_s=settings.deadlines.stream_idle_s)
    providers = Providers(
        settings.providers.bindings,
        refresh_on_401=grants.refresh_on_401,
        replay_body_bytes=grants.replay_max_body_bytes,
        strip=strip,
    )
    policy = GatewayPolicy(
        settings.rules,
        name=settings.name,
        header_rules=header_rules,
        deadlines=deadlines,
        tls=settings.upstream_tls,
        generation=generation,
        providers=providers,
        local=local,
    )
    policy.reverse = ReversePolicy(
        settings.routes,
        name=settings.name,
        header_rules=header_rules,
        deadlines=deadlines,
        tls=settings.upstream_tls,
        generation=generation,
        providers=providers,
        report=settings.rules.report,
    )
    return policy

"""The sidecar's policy and its one route, compiled from plain values."""

import math

from robin.model.limits import Deadlines
from robin.model.message import RequiredField
from robin.model.origin import UpstreamUrl
from robin.model.route import Endpoint, Route, RouteDeadlines, TlsProfile
from robin.policy.guards import SidecarPolicy
from robin.wire.forwarding import header_rules

GRANT = "forward"


def build_endpoint(upstream: UpstreamUrl, ca_file: str | None) -> Endpoint:
    """The one endpoint that the sidecar forwards to."""
    return Endpoint(origin=upstream.origin, tls=TlsProfile(ca_file=ca_file) if upstream.origin.tls else None)


def build_route(
    upstream: UpstreamUrl,
    *,
    strip: tuple[str, ...],
    required: RequiredField | None,
    pseudonym: str,
    upgrades: tuple[str, ...],
    deadlines: Deadlines,
) -> Route:
    """The one route: every request of a permitted caller, with the workload's identity. A deadline of 0 s means none."""
    return Route(
        name="upstream",
        header_rules=header_rules(strip=strip, required=required, pseudonym=pseudonym),
        upgrades=frozenset(("GET", name.encode("ascii")) for name in upgrades),
        deadlines=RouteDeadlines(response_s=deadlines.response_s or math.inf, stream_idle_s=deadlines.stream_idle_s or math.inf),
        base_path=upstream.base_path,
        grant=GRANT,
    )


def build_policy(
    route: Route,
    endpoint: Endpoint,
    *,
    hosts: tuple[str, ...] | None,
    origins: tuple[str, ...],
    required: RequiredField | None,
    pseudonym: str,
    any_host: bool,
) -> SidecarPolicy:
    """`hosts` None: no Host guard (a Unix listener on which none was set)."""
    names = None if hosts is None else frozenset(host.encode("ascii") for host in hosts)
    return SidecarPolicy(
        route,
        endpoint,
        hosts=names,
        origins=frozenset(origin.encode("ascii") for origin in origins),
        required=required,
        pseudonym=pseudonym,
        any_host=any_host,
    )

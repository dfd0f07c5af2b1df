"""The sidecar's part of the engine: its policy, compiled from plain values."""

from robin.model.message import RequiredField
from robin.model.origin import UpstreamUrl
from robin.policy.guards import SidecarPolicy


def build_policy(
    upstream: UpstreamUrl,
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
        upstream,
        hosts=names,
        origins=frozenset(origin.encode("ascii") for origin in origins),
        required=required,
        pseudonym=pseudonym,
        any_host=any_host,
    )

"""The sidecar's part of the house: its policy and its rewriting, compiled from plain values."""

from robin.model.message import RequiredField
from robin.model.origin import UpstreamUrl
from robin.policy.guards import SidecarPolicy
from robin.wire.forwarding import Rewriting


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


def build_rewriting(*, strip: tuple[str, ...], required: RequiredField | None, pseudonym: str) -> Rewriting:
    """What is removed from every request and how this instance signs Via."""
    return Rewriting.build(strip=strip, required_header=required.name.decode("ascii") if required else None, pseudonym=pseudonym)

"""The sidecar's part of the house: its policy and its rewriting, compiled from plain values."""

from robin.model.origin import UpstreamUrl
from robin.policy.guards import RequiredField, SidecarPolicy
from robin.wire.fields import FOLD
from robin.wire.forwarding import Rewriting


def build_policy(
    upstream: UpstreamUrl,
    *,
    hosts: tuple[str, ...] | None,
    origins: tuple[str, ...],
    required: tuple[str, str | None] | None,
    pseudonym: str,
    any_host: bool,
) -> SidecarPolicy:
    """`hosts` None: no Host guard (a Unix listener on which none was set)."""
    names = None if hosts is None else frozenset(host.encode("ascii") for host in hosts)
    field = None
    if required is not None:
        name, value = required
        field = RequiredField(name=name.encode("ascii").translate(FOLD), value=None if value is None else value.encode("latin-1"))
    return SidecarPolicy(
        upstream,
        hosts=names,
        origins=frozenset(origin.encode("ascii") for origin in origins),
        required=field,
        pseudonym=pseudonym,
        any_host=any_host,
    )


def build_rewriting(*, strip: tuple[str, ...], required: tuple[str, str | None] | None, pseudonym: str) -> Rewriting:
    """What is removed from every request and how this instance signs Via."""
    return Rewriting.build(strip=strip, required_header=required[0] if required else None, pseudonym=pseudonym)

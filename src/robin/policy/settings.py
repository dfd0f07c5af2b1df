"""What the sidecar's policy requires of a request before it is forwarded, and the fields that it removes."""

from dataclasses import dataclass

from robin.model.message import RequiredField


@dataclass(frozen=True, slots=True, kw_only=True)
class GuardSettings:
    """Names are lower case. `allowed_hosts` has IPv6 in brackets and no ports; None: the Host is not judged (a Unix listener, unset)."""

    allowed_hosts: tuple[str, ...] | None
    allowed_origins: tuple[str, ...]
    require_header: RequiredField | None
    strip_headers: tuple[str, ...]
    upgrade_protocols: tuple[str, ...]

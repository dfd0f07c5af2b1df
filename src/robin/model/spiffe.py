"""SPIFFE IDs of workloads."""

import re
from collections.abc import Container
from typing import Final

_WORKLOAD: Final = re.compile(r"spiffe://([a-z0-9._-]{1,255})((?:/[A-Za-z0-9._-]+)+)")
_LONGEST: Final = 2048


def trust_domain_of(spiffe_id: str) -> str | None:
    """The trust domain of a workload's SPIFFE ID; None where the text is no such ID (SPIFFE-ID section 2)."""
    found = _WORKLOAD.fullmatch(spiffe_id)
    if found is None or len(spiffe_id) > _LONGEST or not {".", ".."}.isdisjoint(found[2].split("/")):
        return None
    return found[1]


def is_workload_of(spiffe_id: str, trust_domains: Container[str]) -> bool:
    """Whether it is the SPIFFE ID of a workload of one of these trust domains."""
    domain = trust_domain_of(spiffe_id)
    return domain is not None and domain in trust_domains

"""Which software keeps the trust domain of a test: SPIRE, or the stand-in that every journey was first written for.

The stand-in stays: it starts in a tenth of a second, and being held to the same tests as SPIRE is what makes it worth believing.
"""

import contextlib
from collections.abc import Iterator

from tests.real.parts.spiffe import SpiffeDomain, stand_in_domain
from tests.real.parts.spire import spire_domain

PLATFORMS = {"stand-in": stand_in_domain, "spire": spire_domain}
_chosen = ["stand-in"]


@contextlib.contextmanager
def on_platform(name: str) -> Iterator[None]:
    """Every `spiffe_domain` in this block is kept by that software."""
    _chosen.append(name)
    try:
        yield
    finally:
        _chosen.pop()


def on_spire() -> bool:
    """Whether it is SPIRE now."""
    return _chosen[-1] == "spire"


@contextlib.contextmanager
def spiffe_domain(*, sync_s: float = 0.2, start: bool = True) -> Iterator[SpiffeDomain]:
    """A trust domain with authority and agent running (`start=False`: neither, for tests of the order); all ended and removed after."""
    with PLATFORMS[_chosen[-1]](sync_s=sync_s, start=start) as domain:
        yield domain

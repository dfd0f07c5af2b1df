"""Suffixes under which strangers can have names: the public suffix list, and what it leaves out (`policy.patterns.SHARED_SUFFIXES`).

The list is the one that the pinned package carries; nothing is fetched. It is loaded with the first wildcard of a provider profile.
"""

from functools import cache
from typing import TYPE_CHECKING, Final

from robin.policy.patterns import SHARED_SUFFIXES

if TYPE_CHECKING:
    from publicsuffixlist import PublicSuffixList


_OF_ONE_OWNER: Final = frozenset({"googleapis.com"})
"""On the list, but the names one label below are the owner's services (`*-aiplatform.googleapis.com`); those of strangers are deeper."""


def is_shared(suffix: str) -> bool:
    """Whether a canonical name is such a suffix."""
    return suffix in SHARED_SUFFIXES or (suffix not in _OF_ONE_OWNER and bool(_suffixes().is_public(suffix)))


@cache
def _suffixes() -> "PublicSuffixList":
    from publicsuffixlist import PublicSuffixList  # noqa: PLC0415 - a third of a second, only where a profile has a wildcard

    return PublicSuffixList()

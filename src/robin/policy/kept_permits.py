"""What a policy permitted before, found by all that the decision depends on; of one generation, and gone with it. Pure.

Rules a reader must keep: only what the policy permitted is kept, since what it denies callers can make up without end. A key has the names
of caller, host and method, and a path only where rules read it: no query, no field value and no token. What depends on more of a head than
its key (placeholders, signed payloads, tokens to be exchanged) is judged for each request.
"""

from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from robin.model.route import Endpoint, Route
from robin.policy.providers import Place
from robin.policy.select import Selection

_KEPT: Final = 1024
_CHARACTERS: Final = 512  # of the names in a key, all together

Key = tuple[str, str, str, int, str, str, str, bool]
"""Caller, scheme, host, port, method, canonical path or "", upgrade, and whether the head names another method or path.

Of a CONNECT: caller, host and port; it has no scheme of its own.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """The parts of a permit that its requests share. `place` and `selection` are those of its credentials."""

    route: Route
    endpoint: Endpoint
    place: Place
    selection: Selection
    subjects: bool  # whether tokens of the caller are exchanged for them


Parts = TypeVar("Parts")


class KeptPermits(Generic[Parts]):
    """At most as many as there is room for; when there are more, all are forgotten."""

    __slots__ = ("_kept", "get")

    def __init__(self) -> None:
        self._kept: dict[Key, Parts] = {}
        self.get = self._kept.get

    def keep(self, key: Key, kept: Parts) -> None:
        """Keep it, unless its key is long."""
        caller, _, host, _, method, path, _, _ = key
        if len(caller) + len(host) + len(method) + len(path) > _CHARACTERS:
            return
        if len(self._kept) >= _KEPT:
            self._kept.clear()
        self._kept[key] = kept

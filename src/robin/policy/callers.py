"""Patterns of caller ids: in rules, and in the `callers` of providers. Pure."""

from dataclasses import dataclass
from typing import Final

EVERY_CALLER: Final = "*"
"""The pattern that every authenticated caller matches."""

LOCAL_CALLER: Final = "local"
"""The id of those that connect over loopback."""

OPEN_CALLER: Final = "open"
"""The id of those that an open listener serves: it is matched by its own name only."""

ANONYMOUS_CALLER: Final = "anonymous"
"""The id of requests to paths of a route for which no caller is asked: nothing matches it but its own name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CallerPattern:
    """`*`, an exact id, or an id with `*` for one segment and a final `/**`; a trust domain is never a wildcard."""

    text: str

    def matches(self, caller: str) -> bool:
        """Whether the id matches; `open` and `anonymous` are matched by their own names only."""
        if caller in {OPEN_CALLER, ANONYMOUS_CALLER}:
            return self.text == caller
        if self.text == EVERY_CALLER:
            return True
        if "*" not in self.text:
            return caller == self.text
        want, have = self.text.split("/"), caller.split("/")
        if want[-1] == "**":
            want.pop()
            if len(have) <= len(want):
                return False
            have = have[: len(want)]
        return len(want) == len(have) and all(
            (part in {"*", other} and other != "") or part == other for part, other in zip(want, have, strict=True)
        )


def callers_meet(one: str, other: str) -> bool:
    """Whether some caller id matches both patterns. It says yes rather than no where the two are both wild."""
    if EVERY_CALLER in {one, other}:
        return {OPEN_CALLER, ANONYMOUS_CALLER}.isdisjoint({one, other})
    first, second = one.split("/"), other.split("/")
    shorter, longer = sorted((first, second), key=len)
    if first[-1] != "**" and second[-1] != "**" and len(first) != len(second):
        return False
    if shorter[-1] != "**" and longer[-1] == "**" and len(longer) > len(shorter):
        return False  # `/**` is one segment or more
    fixed = min(len(part) - (part[-1] == "**") for part in (first, second))
    return all(a == b or "*" in {a, b} for a, b in zip(first[:fixed], second[:fixed], strict=True))

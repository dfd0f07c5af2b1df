"""Callers as a file names them: ids, patterns and short names become the texts of patterns."""

import re
from collections.abc import Mapping
from typing import Final

_CALLER = re.compile(r"[A-Za-z0-9*][A-Za-z0-9._:/*@|+=~-]{0,511}")
_SPIFFE = re.compile(r"spiffe://[^*/]+/.")
CALLER_WORDS: Final = ("*", "local", "open")
"""The callers that have no colon: every authenticated one, those of this machine, those of an open listener."""


def is_caller(text: str) -> bool:
    """Whether it is a caller id or a pattern: `*` alone, or `*` for whole segments behind the first one, and `**` for the last.

    A trust domain is never a wildcard, however it is written.
    """
    if text == "*":
        return True
    if _CALLER.fullmatch(text) is None or (text.startswith("spiffe:") and _SPIFFE.match(text) is None):
        return False
    *before, last = text.split("/")
    return all("*" not in part or (part == "*" and at > 0) for at, part in enumerate(before)) and (
        "*" not in last or (bool(before) and last in {"*", "**"})
    )


def can_call(text: str) -> bool:
    """Whether some caller can have this id, or match this pattern: each kind of id but `local` and `open` has a colon."""
    return text in CALLER_WORDS or ":" in text


def expand(text: str, short: Mapping[str, tuple[str, ...]]) -> tuple[str, ...]:
    """The patterns that a name stands for, or the text itself."""
    return short.get(text, (text,))

"""One finding of the doctor: what was looked at, how it is, and the fix where it is not well."""

from dataclasses import dataclass
from enum import StrEnum


class Health(StrEnum):
    """OK: nothing to do. WARN: it works, but look at it. FAIL: it will not work."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """`subject` is a stable word; `fix` is empty where there is nothing to fix. Neither ever holds bytes of a token."""

    subject: str
    health: Health
    what: str
    fix: str = ""


def ok(subject: str, what: str) -> Finding:
    """Nothing to do."""
    return Finding(subject=subject, health=Health.OK, what=what)


def warn(subject: str, what: str, fix: str) -> Finding:
    """It works, but look at it."""
    return Finding(subject=subject, health=Health.WARN, what=what, fix=fix)


def fail(subject: str, what: str, fix: str) -> Finding:
    """It will not work."""
    return Finding(subject=subject, health=Health.FAIL, what=what, fix=fix)


def from_detail(subject: str, detail: str) -> Finding:
    """A failure written as `reason: what; fix`, as faults and sources write it."""
    what, _, fix = detail.rpartition("; ") if "; " in detail else (detail, "", "")
    return fail(subject, what, fix)

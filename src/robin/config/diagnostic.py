"""One finding about a configuration file: where, how bad, a stable code, what is wrong and the fix."""

from dataclasses import dataclass
from typing import Literal

MOST_DIAGNOSTICS = 50  # a file with more is most likely not what it was taken for


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Position:
    """A place in a file; line and column are counted from 1, columns in characters."""

    file: str
    line: int
    col: int

    def __str__(self) -> str:
        name = self.file if self.file.isprintable() else ascii(self.file)
        return f"{name}:{self.line}:{self.col}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnostic:
    """`message` and `fix` are sentences without a final full stop, and never quote what could be a secret."""

    at: Position
    code: str
    message: str
    fix: str
    severity: Literal["error", "warning"] = "error"

    def __str__(self) -> str:
        return f"{self.at}: {self.severity}: {self.code}: {self.message}. Fix: {self.fix}."

    def json(self) -> dict[str, str | int]:
        """For `--json`."""
        return {
            "file": self.at.file,
            "line": self.at.line,
            "col": self.at.col,
            "severity": self.severity,
            "code": self.code,
            "message": self.message,
            "fix": self.fix,
        }


def bounded(found: list[Diagnostic]) -> tuple[Diagnostic, ...]:
    """The findings in the order of their positions; where there are too many, the first ones and a last one that reports it."""
    ordered = sorted(found, key=lambda one: one.at)
    if len(ordered) <= MOST_DIAGNOSTICS:
        return tuple(ordered)
    last = ordered[MOST_DIAGNOSTICS]
    more = Diagnostic(at=last.at, code="too_many_errors", message="there are more errors than are shown", fix="correct those above first")
    return (*ordered[:MOST_DIAGNOSTICS], more)

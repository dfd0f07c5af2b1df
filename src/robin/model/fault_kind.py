"""One line of the fault table, and how a table is made of rows: `model/*_faults.py` has those of the planes, `model/faults.py` all."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum


class FaultSource(StrEnum):
    """Who is at fault."""

    DOWNSTREAM = "downstream"
    POLICY = "policy"
    IDENTITY = "identity"
    ISSUER = "issuer"
    UPSTREAM = "upstream"
    LOCAL = "local"


@dataclass(frozen=True, slots=True, kw_only=True)
class FaultKind:
    """One line of the fault table.

    `status` is the HTTP status; `error` the RFC 9209 proxy error type; `retry_after_s` the Retry-After of a Fault without one of its own
    (None: no Retry-After), `retry_after_max_s` the longest of any; `closes`: the downstream connection ends after the response, and later
    bytes are not parsed.
    """

    code: str
    status: int
    error: str
    source: FaultSource
    title: str
    retry_after_s: int | None = None
    retry_after_max_s: int = 30
    closes: bool = False

    @property
    def denies(self) -> bool:
        """Whether the caller, its request, a rule or a limit is the reason, and not a service that did not do its part."""
        return self.source in {FaultSource.DOWNSTREAM, FaultSource.POLICY} or self.code.startswith("limit_")


FaultRow = tuple[str, int, str, str, str, int | None, bool]
"""Code, HTTP status, RFC 9209 proxy error type, source, title, Retry-After in seconds, closes."""


def fault_table(rows: Iterable[FaultRow], *, retry_after_max_s: int = 30) -> Mapping[str, FaultKind]:
    """The rows by their code."""
    return {
        code: FaultKind(
            code=code,
            status=status,
            error=error,
            source=FaultSource(source),
            title=title,
            retry_after_s=after_s,
            retry_after_max_s=retry_after_max_s,
            closes=closes,
        )
        for code, status, error, source, title, after_s, closes in rows
    }

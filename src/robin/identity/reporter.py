"""What an identity reports: its counters, its log lines and its change callback, in one place for all kinds of identity.

A wrong audience or a refusal is an error line once per token, then once per 60 s; other failures carry a code, which the log limits by
itself. Lines about readiness have no code and are therefore never limited, so that the last line of the log shows the present state.
"""

from typing import Final

from robin.identity.identity import Dependencies
from robin.identity.source import SourceFailure
from robin.model.identity import IdentityToken
from robin.telemetry.identity_metrics import IdentityMetrics
from robin.telemetry.logs import stack_of

_REPEAT_S: Final = 60.0
_MISCONFIGURED: Final = frozenset({"audience_mismatch", "identity_refused"})


class IdentityReporter:
    """Reports on one identity. `usable` is the state that was reported last; `path` is that of a token file, for the log alone."""

    __slots__ = ("_clock", "_last_error", "_last_error_at", "_log", "_metrics", "_on_change", "_path", "usable")

    def __init__(self, dependencies: Dependencies, metrics: IdentityMetrics, *, path: str | None = None) -> None:
        self._clock = dependencies.clock
        self._log = dependencies.log
        self._on_change = dependencies.on_change
        self._metrics = metrics
        self._path = path
        self._last_error: tuple[str, bytes] | None = None
        self._last_error_at = 0.0
        self.usable = False

    def renewed(self, token: IdentityToken, code: str, duration_s: float) -> None:
        """Report that a new token is in use."""
        metrics = self._metrics
        metrics.count_refresh("renewed", code, duration_s)
        metrics.expires_at = token.expires_at
        expires_in_s = None if token.expires_at is None else round(token.expires_at - self._clock.wall(), 1)
        self._log.info("identity_renewed", source=metrics.source, expires_in_s=expires_in_s)
        self.usable = metrics.ready = True
        self._last_error = None
        self._on_change()

    def unchanged(self, code: str, duration_s: float) -> None:
        """Report that the platform returned the token that is held already."""
        self._metrics.count_refresh("unchanged", code, duration_s)

    def failed(self, failure: SourceFailure, duration_s: float, *, about: bytes = b"") -> None:
        """Report that a read or fetch yielded no usable token. `about` is the fingerprint of the refused token, where there was one."""
        metrics = self._metrics
        metrics.count_refresh("error", failure.label, duration_s)
        if failure.fault in _MISCONFIGURED:
            now, error = self._clock.monotonic(), (failure.fault, about)
            if error != self._last_error or now - self._last_error_at >= _REPEAT_S:
                self._last_error, self._last_error_at = error, now
                self._log.error(
                    "identity_misconfigured",
                    source=metrics.source,
                    fault=failure.fault,
                    label=failure.label,
                    path=self._path,
                    detail=failure.detail,
                )
            return
        self._log.warning(
            "identity_refresh_failed",
            code=failure.label,
            source=metrics.source,
            fault=failure.fault,
            path=self._path,
            detail=failure.detail,
        )

    def crashed(self, where: str, error: Exception) -> None:
        """Report a bug by its type and stack only, since its text may quote a token."""
        self._log.error("identity_crashed", code=type(error).__name__, where=where, stack=stack_of(error))

    def report_state(self, *, usable: bool, fault: str) -> None:
        """Report the present state, if it differs from the one that was reported last."""
        if usable is self.usable:
            return
        self.usable = self._metrics.ready = usable
        if usable:
            self._log.info("identity_ready", source=self._metrics.source)
        else:
            self._log.error("identity_lost", source=self._metrics.source, fault=fault)
        self._on_change()

"""The verifier in the process of a service: its own thread holds bundle, replay store and audit log, whatever server runs the application.

Rules: one process, since the store is in its memory. After a fork the child has a copy that counts apart, so there, and once it is closed,
everything is refused with `replay_store_unavailable`. What cannot be judged is never let through.
"""

import asyncio
import atexit
import logging
import os
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from pathlib import Path
from typing import Any, Final, TypeVar

from robin.app.shutdown import StartFailure
from robin.app.verifying import BUNDLE_POLL_S, VerifierParts, build_verifier, lock_state, open_audit_file, start_failures
from robin.config.broker_load import BrokerSettings, VerifySettings, load_broker
from robin.config.file import load_content
from robin.config.parse import InvalidValue
from robin.model.passport import ReceivedRequest
from robin.model.passport_reasons import Refused
from robin.planes.broker.keys import check_folders, load_public_keys
from robin.planes.broker.metrics import PassportMetrics
from robin.planes.broker.records import PassportAudit
from robin.planes.broker.verifier import Verification
from robin.telemetry.audit import AuditLog
from robin.transport.clock import Clock, SystemClock
from robin.transport.entropy import SystemEntropy

ANSWER_S: Final = 30.0
"""How long a request waits for the thread at most; the disk has 5 s of it."""

_log: Final = logging.getLogger("robin.passport")
T = TypeVar("T")


class SettingsError(ValueError):
    """Settings, keys, state or audit log of a verifier cannot be used; the message has one line for each problem, with its fix."""


class Verifier:
    """Judges the requests of one process, for `PassportASGI` and `PassportWSGI`. Make one, and give it to the middleware."""

    @classmethod
    def from_config(cls, path: str | os.PathLike[str], *, clock: Clock | None = None) -> "Verifier":
        """A verifier by `broker.verify`, `broker.state_dir` and `broker.audit` of a robin.yaml. Raises SettingsError.

        The listeners and `issue` of the file have no effect here. See docs/how-to/verify-passports-in-python.md.
        """
        try:
            settings, diagnostics = load_broker(load_content(os.fspath(path)), os.fspath(path), here=True)
        except InvalidValue as error:
            raise SettingsError(f"{os.fspath(path)!a}: {error.what}; {error.fix}") from None
        if settings is None:
            raise SettingsError("\n".join(str(one) for one in diagnostics))
        for one in diagnostics:
            _log.warning("%s", one)
        if settings.verify is None:
            raise SettingsError(f"{os.fspath(path)!a}: broker has no `verify`; add it with bundle, bundle_keys and authorities")
        return cls(settings, settings.verify, clock or SystemClock())

    def __init__(self, settings: BrokerSettings, verify: VerifySettings, clock: Clock) -> None:
        """Use `from_config`. Raises SettingsError."""
        self._clock = clock
        self._entropy = SystemEntropy()
        self._pid = os.getpid()
        self._open = True
        self._polled_at = clock.monotonic()
        self.max_body_bytes: Final = verify.max_body_bytes
        self.body_within_s: Final = verify.max_age_s + verify.clock_skew_s
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="robin-passport", daemon=True)
        self._thread.start()
        self._lock = -1
        try:
            with start_failures():
                self._parts, self._audit_log = self._run(self._start(settings, verify))
        except StartFailure as failure:
            self._end()
            raise SettingsError(str(failure)) from None
        atexit.register(self.close)

    async def _start(self, settings: BrokerSettings, verify: VerifySettings) -> tuple[VerifierParts, AuditLog]:
        settings.state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        check_folders(settings.state_dir, None)
        self._lock = lock_state(settings.state_dir)
        signers = load_public_keys(verify.bundle_keys)
        file, used_at = open_audit_file(settings, self._clock)
        log = AuditLog(file, monotonic=self._clock.monotonic, on_end=lambda detail: _log.error("audit_ended: %s", detail))
        parts = build_verifier(
            verify,
            signers,
            state_dir=Path(settings.state_dir),
            used_at=used_at,
            audit=PassportAudit(log, self._clock.wall),
            metrics=PassportMetrics(),
            clock=self._clock,
            on_load=_on_bundle,
        )
        return parts, log

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why nothing is accepted now, as `/readyz` of the broker says it; empty while requests can be. For the service's own readiness."""
        if not self._is_usable():
            return ("replay_store_unavailable",)
        audit = ["audit_unavailable"] if self._audit_log.failure else []
        return (*self._parts.reasons(self._clock.wall()), *audit)

    def reopen_audit(self) -> bool:
        """After the audit file was renamed: go on in a new one. Returns False if it is still at its path. Raises AuditUnavailable."""
        return self._run(self._audit_log.reopen())

    def close(self) -> None:
        """Seal the audit log and give the state back; everything is refused from now on. Repeatable."""
        if not self._open or os.getpid() != self._pid:
            return
        self._open = False
        atexit.unregister(self.close)
        self._run(self._audit_log.close())
        self._end()

    def _end(self) -> None:
        self._open = False
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        if self._lock >= 0:
            os.close(self._lock)

    # For the middleware: each returns at once, with the future of an outcome in the thread.

    def begin(self, request: ReceivedRequest, surface: str) -> Verification:
        """One request under judgement."""
        return Verification(request=request, request_id=self._entropy.token_hex(12), surface=surface)

    def check_head(self, one: Verification) -> Future[None]:
        """Steps 1 to 12. The future raises Refused, whose record is written; so does the call, with none."""
        return self._submit(lambda: self._check_head(one))

    def admit(self, one: Verification, body: bytes) -> Future[None]:
        """Steps 13 to 15. Raises as `check_head`."""
        return self._submit(lambda: self._parts.verifier.admit(one, body))

    def refuse(self, one: Verification, refused: Refused) -> Future[Refused]:
        """Record a refusal by the middleware; the outcome is what is answered. The call raises as `check_head`."""
        return self._submit(lambda: self._parts.verifier.refuse(one, refused))

    async def _check_head(self, one: Verification) -> None:
        now = self._clock.monotonic()
        if now - self._polled_at >= BUNDLE_POLL_S:
            self._polled_at = now
            self._parts.bundle.poll()
        await self._parts.verifier.check_head(one)

    def _is_usable(self) -> bool:
        return self._open and os.getpid() == self._pid and self._thread.is_alive()

    def _submit(self, act: Callable[[], Coroutine[Any, Any, T]]) -> Future[T]:
        if not self._is_usable():
            raise Refused("replay_store_unavailable")
        return asyncio.run_coroutine_threadsafe(act(), self._loop)

    def _run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(ANSWER_S)


def _on_bundle(event: str, detail: str) -> None:
    if event == "loaded":
        _log.info("bundle_loaded")
    else:
        _log.error("bundle_refused: %s: %s", event, detail)

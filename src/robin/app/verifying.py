"""What every process with a verifier builds from `broker.verify`: its state and audit file, its bundle, its judge.

Nothing here needs a running plane: `robin.passport` runs in the process of a service.
"""

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from robin.app.shutdown import EXIT_BIND, EXIT_FAILED, EXIT_SETTINGS, StartFailure
from robin.config.broker_load import BrokerSettings, VerifySettings
from robin.planes.broker.bundle_file import BundleFile
from robin.planes.broker.keys import KeyFileRefused
from robin.planes.broker.metrics import PassportMetrics
from robin.planes.broker.records import PassportAudit
from robin.planes.broker.replay import MemoryReplayStore
from robin.planes.broker.verifier import Verifier
from robin.policy.passport_proof import ProofRules
from robin.policy.passport_verify import VerifyRules
from robin.telemetry.audit_file import AuditFile, AuditUnavailable, load_checkpoint_key
from robin.transport.clock import Clock
from robin.wire.passport_keys import PublicKey

BUNDLE_POLL_S: Final = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifierParts:
    """A verifier and what it judges with. `watermark`, in epoch seconds: proofs of then or earlier may have been used before the start."""

    verifier: Verifier
    bundle: BundleFile
    watermark: float

    def reasons(self, wall: float) -> list[str]:
        """Why it accepts nothing now; empty while it can."""
        found = []
        if self.bundle.bundle is None:
            found.append(self.bundle.reason)
        elif wall > self.bundle.bundle.not_after:
            found.append("stale_bundle_fail_closed")
        if int(wall) <= self.watermark:  # proofs are dated in whole seconds
            found.append("replay_watermark")
        return found


@contextmanager
def start_failures() -> Iterator[None]:
    """What goes wrong with files of the section `broker`, as StartFailure with a message that names the file."""
    try:
        yield
    except KeyFileRefused as refused:
        raise StartFailure(EXIT_SETTINGS, str(refused)) from None
    except AuditUnavailable as error:
        fix = "; let the broker's user write it, or name another broker.audit.file" if error.reason == "write_failed" else ""
        raise StartFailure(EXIT_BIND if error.reason == "locked" else EXIT_FAILED, f"broker.audit: {error}{fix}") from None
    except ValueError as error:
        raise StartFailure(EXIT_SETTINGS, f"broker.audit.checkpoint_key_file: {error}") from None
    except OSError as error:
        raise StartFailure(EXIT_SETTINGS, f"broker: {error.filename}: {error.strerror}") from None


def lock_state(state_dir: Path) -> int:
    """Hold the lock of the state, so that two processes never count uses of a nonce apart. Returns the descriptor. Raises StartFailure."""
    path = state_dir / "replay.lock"
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        raise StartFailure(EXIT_BIND, f"{path}: another process uses this state_dir") from None
    return fd


def open_audit_file(settings: BrokerSettings, clock: Clock) -> tuple[AuditFile, float]:
    """The audit file, and when its last record was written, by the clock of then; each use has its record. 0: there was no file."""
    key = None if settings.checkpoint_key_file is None else load_checkpoint_key(settings.checkpoint_key_file)
    try:
        used_at = settings.audit_file.stat().st_mtime  # before a record of this start
    except FileNotFoundError:
        used_at = 0.0
    file = AuditFile(settings.audit_file, plane="broker", wall=clock.wall, key=key, checkpoint_every=settings.checkpoint_every)
    return file, used_at


def build_verifier(
    verify: VerifySettings,
    signers: dict[str, PublicKey],
    *,
    state_dir: Path,
    used_at: float,
    audit: PassportAudit,
    metrics: PassportMetrics,
    clock: Clock,
    on_load: Callable[[str, str], None],
) -> VerifierParts:
    """The verifier with the bundle that is there now. `on_load` as `BundleFile` has it."""
    # A clock that was set back since the last use would make proofs of before the start look new.
    watermark = max(clock.wall(), used_at) + verify.clock_skew_s
    proof = ProofRules(scheme=verify.scheme, max_age_s=verify.max_age_s, skew_s=verify.clock_skew_s, not_before_at=watermark)
    rules = VerifyRules(authorities=verify.authorities, proof=proof, max_header_bytes=verify.max_header_bytes)
    bundle = BundleFile(verify.bundle, signers, serial_path=state_dir / "bundle.serial", on_load=on_load)
    replay = MemoryReplayStore(verify.replay_entries)
    metrics.replay_entries = replay.__len__
    metrics.bundle_age_s = lambda: None if bundle.bundle is None else clock.wall() - bundle.bundle.created_at
    bundle.poll()
    verifier = Verifier(rules, bundle, replay, audit, metrics, wall=clock.wall, monotonic=clock.monotonic)
    return VerifierParts(verifier=verifier, bundle=bundle, watermark=watermark)

"""The audit of a gateway or a relay, from its settings."""

from pathlib import Path
from typing import Final

from robin.app.plane import Parts
from robin.app.shutdown import EXIT_BIND, EXIT_SETTINGS, StartFailure
from robin.planes.gateway.settings import AuditSettings
from robin.telemetry.audit import AuditLog, Target, note_end
from robin.telemetry.audit_file import AuditFile, AuditUnavailable, load_checkpoint_key
from robin.telemetry.audit_stream import AuditStream

_FIXES: Final = {
    "locked": "; is that gateway still running? Two need a file each",
    "write_failed": "; name a file in a folder in which this user may write",
}


def build_audit(audit: AuditSettings, parts: Parts) -> AuditLog:
    """On standard output, or in its file. Raises StartFailure."""
    try:
        key = None if audit.checkpoint_key_file is None else load_checkpoint_key(Path(audit.checkpoint_key_file))
    except (OSError, ValueError) as error:
        raise StartFailure(EXIT_SETTINGS, f"gateway.audit.checkpoint_key_file: {error}") from None
    wall, every = parts.clock.wall, audit.checkpoint_every
    try:
        if audit.file is None:
            target: Target = AuditStream(parts.writer, plane="gateway", wall=wall, key=key, checkpoint_every=every)
        else:
            target = AuditFile(Path(audit.file), plane="gateway", wall=wall, key=key, checkpoint_every=every)
    except AuditUnavailable as error:
        code = EXIT_BIND if error.reason == "locked" else EXIT_SETTINGS
        raise StartFailure(code, f"gateway.audit.file: {error}{_FIXES.get(error.reason, '')}") from None
    return AuditLog(target, monotonic=parts.clock.monotonic, on_end=note_end(parts.events))

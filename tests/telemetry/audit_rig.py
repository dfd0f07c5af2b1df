"""An audit log in a folder, its key, and its verification: for the tests of the audit log and of `robin audit`."""

import json
import os
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from robin.telemetry.audit import AuditLog, AuditRecord
from robin.telemetry.audit_chain import draft_of
from robin.telemetry.audit_file import AuditFile, load_checkpoint_key
from robin.testing.manual_clock import ManualClock
from robin.transport.clock import SystemClock

KEY = Ed25519PrivateKey.from_private_bytes(b"k" * 32)


class Folder:
    """Where a log lives: `log` is its path, `public` and `private` those of its key."""

    def __init__(self, path: Path) -> None:
        self.log = path / "audit.jsonl"
        self.private = path / "key.pem"
        self.public = path / "key.pub.pem"
        self.private.write_bytes(KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        self.public.write_bytes(KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))

    def open_file(self, *, every: int = 1000, signed: bool = True, sync: Callable[[int], None] = os.fdatasync) -> AuditFile:
        """The file, opened as a plane does."""
        key = load_checkpoint_key(self.private) if signed else None
        return AuditFile(self.log, plane="test", wall=ManualClock().wall, key=key, checkpoint_every=every, sync=sync)

    @asynccontextmanager
    async def opened(self, *, every: int = 1000, sync: Callable[[int], None] = os.fdatasync, **limits: Any) -> AsyncIterator[AuditLog]:
        """The log, closed in the end."""
        log = AuditLog(self.open_file(every=every, sync=sync), monotonic=SystemClock().monotonic, **limits)
        try:
            yield log
        finally:
            await log.close()

    def write(self, count: int, *, every: int = 1000, signed: bool = True) -> list[bytes]:
        """A closed log of `count` records and what the chain adds; its lines."""
        file = self.open_file(every=every, signed=signed)
        drafts = [
            draft_of({"ts": "t", "plane": "test", "event": "request.decided", "id": f"id-{number}", "n": number}) for number in range(count)
        ]
        assert file.append(drafts) == count
        assert file.checkpoint("close")
        file.close()
        return self.log.read_bytes().splitlines(keepends=True)

    def records(self) -> list[dict[str, Any]]:
        """What is in the file."""
        return [json.loads(line) for line in self.log.read_bytes().splitlines()]


def decision(number: int, *, sync: bool = False, **fields: object) -> AuditRecord:
    """A record of a plane."""
    return AuditRecord(event="request.decided", id=f"id-{number}", fields={"n": number, **fields}, sync=sync)


def values_of(record: Mapping[str, Any], *names: str) -> tuple[Any, ...]:
    """These members of a record."""
    return tuple(record[name] for name in names)

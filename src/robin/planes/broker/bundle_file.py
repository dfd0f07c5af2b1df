"""The bundle in force: read from its file, polled, and replaced only by one that is whole, signed and not older."""

import os
import stat
from collections.abc import Callable, Mapping
from pathlib import Path

from robin.transport.private_file import write_private
from robin.wire.passport_keys import PublicKey
from robin.wire.trust_bundle import LIMIT_BYTES, BundleRefused, TrustBundle, parse_bundle


def read_bundle(path: Path) -> bytes:
    """The bytes of the file, and no more than one too many. Raises OSError; BundleRefused where it is not a regular file."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # a pipe would wait for a writer
    with os.fdopen(fd, "rb") as file:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise BundleRefused("bundle_policy_missing", "it is not a regular file")
        return file.read(LIMIT_BYTES + 1)


class BundleFile:
    """`bundle` is None while none is in force, and `reason` is why. `on_load(event, detail)`: `loaded`, or the reason of a refusal.

    A refusal is reported once, not at every poll.
    """

    __slots__ = ("_on_load", "_path", "_refused", "_seen", "_serial_path", "_signers", "bundle", "reason")

    def __init__(
        self, path: Path, signers: Mapping[str, PublicKey], *, serial_path: Path | None, on_load: Callable[[str, str], None]
    ) -> None:
        """`serial_path` keeps the highest serial over restarts; None: it is kept in memory alone."""
        self._path = path
        self._signers = signers
        self._serial_path = serial_path
        self._on_load = on_load
        self._seen: tuple[int, int, int] | None = None
        self._refused: tuple[str, str] | None = None
        self.bundle: TrustBundle | None = None
        self.reason = "bundle_policy_missing"

    def poll(self) -> None:
        """Read the file again if it changed. Nothing is raised: what cannot be taken leaves the bundle in force as it is."""
        try:
            found = os.stat(self._path)
            mark = (found.st_mtime_ns, found.st_size, found.st_ino)
            if mark == self._seen:
                return
            text = read_bundle(self._path)
            highest = self._highest()  # before the mark: where this fails, the next poll tries again
            self._seen = mark
            self._take(parse_bundle(text, self._signers), highest)
        except OSError as error:
            self._seen = None
            self._refuse("bundle_policy_missing", error.strerror or "unreadable")
        except BundleRefused as refused:
            self._refuse(refused.reason, refused.detail)

    def _take(self, bundle: TrustBundle, highest: int) -> None:
        if bundle.serial < highest or (self.bundle is not None and bundle.created_at < self.bundle.created_at):
            raise BundleRefused("bundle_rollback", "its serial or time is lower than one seen before")
        if self._serial_path is not None:
            write_private(self._serial_path, f"{bundle.serial}\n".encode("ascii"))
        self.bundle = bundle
        self._refused = None
        self._on_load("loaded", "")

    def _highest(self) -> int:
        """The highest serial so far. Raises BundleRefused where the file that keeps it is damaged: any bundle could be an old one then."""
        kept = self.bundle.serial if self.bundle is not None else 0
        if self._serial_path is not None and self._serial_path.exists():
            text = self._serial_path.read_bytes()[:32].strip()
            if not text.isdigit():
                raise BundleRefused("bundle_rollback", f"{self._serial_path.name} is damaged; write the serial in force into it")
            kept = max(kept, int(text))
        return kept

    def _refuse(self, reason: str, detail: str) -> None:
        if self.bundle is None:
            self.reason = reason
        if (reason, detail) != self._refused:
            self._refused = (reason, detail)
            self._on_load(reason, detail)

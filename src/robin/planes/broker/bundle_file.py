"""The bundle in force: read from its file, polled, and replaced only by one that is whole, signed and not older."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path

from robin.wire.passport_keys import PublicKey
from robin.wire.trust_bundle import LIMIT_BYTES, BundleRefused, TrustBundle, parse_bundle


class BundleFile:
    """`bundle` is None while none is in force, and `reason` says why. `on_load(event, detail)`: `loaded`, or the reason of a refusal."""

    __slots__ = ("_on_load", "_path", "_seen", "_serial_path", "_signers", "bundle", "reason")

    def __init__(
        self, path: Path, signers: Mapping[str, PublicKey], *, serial_path: Path | None, on_load: Callable[[str, str], None]
    ) -> None:
        """`serial_path` keeps the highest serial over restarts; None: it is kept in memory alone."""
        self._path = path
        self._signers = signers
        self._serial_path = serial_path
        self._on_load = on_load
        self._seen: tuple[int, int, int] | None = None
        self.bundle: TrustBundle | None = None
        self.reason = "bundle_policy_missing"

    def poll(self) -> None:
        """Read the file again if it changed. Nothing is raised: what cannot be taken leaves the bundle in force as it is."""
        try:
            found = os.stat(self._path)
            mark = (found.st_mtime_ns, found.st_size, found.st_ino)
            if mark == self._seen:
                return
            self._seen = mark
            with self._path.open("rb") as file:
                self._take(parse_bundle(file.read(LIMIT_BYTES + 1), self._signers))
        except OSError as error:
            if self._seen is not None or self.bundle is None:
                self._refuse("bundle_policy_missing", error.strerror or "unreadable")
            self._seen = None
        except BundleRefused as refused:
            self._refuse(refused.reason, refused.detail)

    def _take(self, bundle: TrustBundle) -> None:
        if bundle.serial < self._highest():
            raise BundleRefused("bundle_rollback", "its serial is lower than one seen before")
        if self._serial_path is not None:
            temporary = self._serial_path.with_suffix(".new")
            temporary.write_text(f"{bundle.serial}\n")
            temporary.replace(self._serial_path)
        self.bundle = bundle
        self._on_load("loaded", "")

    def _highest(self) -> int:
        kept = self.bundle.serial if self.bundle is not None else 0
        if self._serial_path is not None and self._serial_path.exists():
            text = self._serial_path.read_text().strip()
            kept = max(kept, int(text) if text.isdigit() and len(text) < 17 else 0)
        return kept

    def _refuse(self, reason: str, detail: str) -> None:
        if self.bundle is None:
            self.reason = reason
        self._on_load(reason, detail)

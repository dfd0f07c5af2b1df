"""The CA certificates of all slots, which are published, whichever of them signs; read again when a file changes."""

import datetime
import os
from collections.abc import Iterator, Mapping
from typing import Final

from robin.planes.gateway.authority import BridgeAuthority
from robin.telemetry import names
from robin.telemetry.names import Reading
from robin.transport.tls import TlsFileError, file_identity, read_file

_BEGIN: Final = b"-----BEGIN CERTIFICATE-----"
_END: Final = b"-----END CERTIFICATE-----"


class Slots:
    """`pem()` is what callers must trust; `certificates()` what they are."""

    __slots__ = ("_folders", "_pem", "_seen")

    def __init__(self, folders: Mapping[str, str], before: "Slots | None" = None) -> None:
        """`before`: what this one replaces; what it read last of a folder stays until the folder can be read."""
        self._folders = dict(folders)
        kept = {} if before is None else {name: pem for name, pem in before._pem.items() if before._folders[name] == folders.get(name)}
        self._seen: dict[str, tuple[int, ...]] = {}
        self._pem: dict[str, bytes] = kept

    def pem(self) -> bytes:
        """The first certificate of each slot, once each; nothing else that is in the files. One that cannot be read is as it was before."""
        for name, folder in self._folders.items():
            path = os.path.join(folder, "tls.crt")
            seen = file_identity(path)
            if seen != self._seen.get(name):
                try:
                    self._pem[name] = _first_certificate(read_file(path, "tls.crt"))
                    self._seen[name] = seen
                except (TlsFileError, OSError, ValueError):
                    continue
        return b"".join(dict.fromkeys(self._pem.values()))

    def certificates(self) -> dict[str, tuple[str, float]]:
        """The SHA-256 and the end of each CA, by slot."""
        from cryptography import x509  # noqa: PLC0415 - only where there are slots
        from cryptography.hazmat.primitives.hashes import SHA256  # noqa: PLC0415

        self.pem()
        found: dict[str, tuple[str, float]] = {}
        for name, pem in self._pem.items():
            try:
                certificate = x509.load_pem_x509_certificate(pem)
            except ValueError:
                continue
            found[name] = certificate.fingerprint(SHA256()).hex(), certificate.not_valid_after_utc.timestamp()
        return found


def _first_certificate(pem: bytes) -> bytes:
    """Raises ValueError where there is none."""
    start = pem.index(_BEGIN)
    return pem[start : pem.index(_END, start) + len(_END)] + b"\n"


def describe_slots(slots: Slots, sign_with: str, authority: BridgeAuthority | None) -> list[dict[str, object]]:
    """Each CA as the status page has it: that which signs is the one in memory, whatever its folder holds now."""
    signing = None if authority is None else authority.ca
    return [
        {
            "slot": name,
            "sha256": sha256 if signing is None or name != sign_with else signing.sha256,
            "not_after": _day(ends_at if signing is None or name != sign_with else signing.not_after),
            "signing": name == sign_with,
        }
        for name, (sha256, ends_at) in slots.certificates().items()
    ]


def _day(at: float) -> str:
    return datetime.datetime.fromtimestamp(int(at), datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def ca_readings(slots: Slots, sign_with: str, authority: BridgeAuthority | None) -> Iterator[Reading]:
    """The series about the CA."""
    for name, (_, ends_at) in slots.certificates().items():
        yield names.GATEWAY_CA_ENDS, (name,), ends_at
        yield names.GATEWAY_CA_SIGNING, (name,), int(name == sign_with)
    if authority is not None:
        yield names.GATEWAY_CA_PENDING, (), int(authority.pending)
        yield names.GATEWAY_MINTS, (), authority.mints
        yield names.GATEWAY_LEAF_HITS, (), authority.hits

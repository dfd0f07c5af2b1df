"""KeyUpdate messages of a TLS 1.3 server, which Python's `ssl` cannot send: made from the secrets of its key log (RFC 8446 section 7)."""

import struct
from pathlib import Path

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

RECORD_BYTES = 27


def _expand(secret: bytes, label: bytes, length: int) -> bytes:
    full = b"tls13 " + label
    info = struct.pack("!HB", length, len(full)) + full + b"\0"
    return HKDFExpand(algorithm=hashes.SHA384(), length=length, info=info).derive(secret)


def key_updates(key_log: Path, count: int, *, requested: bool) -> bytes:
    """The first records that a server with TLS_AES_256_GCM_SHA384 sends behind its handshake; `requested` asks for a reply to each."""
    lines = [line.split() for line in key_log.read_text().splitlines()]
    secret = next(bytes.fromhex(line[2]) for line in lines if line[0] == "SERVER_TRAFFIC_SECRET_0")
    inner = bytes((24, 0, 0, 1, requested, 22))
    header = struct.pack("!BHH", 23, 0x0303, len(inner) + 16)
    records = []
    for _ in range(count):
        records.append(header + AESGCM(_expand(secret, b"key", 32)).encrypt(_expand(secret, b"iv", 12), inner, header))
        secret = _expand(secret, b"traffic upd", 48)
    return b"".join(records)

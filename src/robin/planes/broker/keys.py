"""The issuer's keys on disk: one Ed25519 JWK a file, named by its thumbprint, read strictly and written whole.

Rules: the folder is 0700, a file 0600, both of our own user and no symbolic link; exactly one key is active. Anything else ends the start
with the file and the rule, since a key that others can read or replace can mint every passport.
"""

import contextlib
import json
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from robin.wire.compact_jws import decode_base64url, encode_base64url
from robin.wire.passport_keys import PublicKey, parse_public, public_jwk, thumbprint_of
from robin.wire.strict_json import parse_json_object

STATUSES: Final = ("next", "active", "retiring")
_LIMIT_BYTES: Final = 4096


class KeyFileRefused(Exception):
    """A key file or folder breaks a rule; the message names both."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class IssuerKeyPair:
    """One issuer key. `created` in epoch seconds."""

    kid: str
    status: str
    created: int
    key: Ed25519PrivateKey


def make_key(*, status: str, created: int) -> IssuerKeyPair:
    """A new key in memory."""
    key = Ed25519PrivateKey.generate()
    return IssuerKeyPair(kid=thumbprint_of(key), status=status, created=created, key=key)


def load_keys(folder: Path, *, now: float, auto_create: bool) -> tuple[IssuerKeyPair, ...]:
    """Every key of the folder; with `auto_create` one is made if there is none. Raises KeyFileRefused, OSError."""
    if auto_create:
        with contextlib.suppress(FileExistsError):
            folder.mkdir(mode=0o700, parents=True)
    _check(folder, os.lstat(folder), directory=True)
    paths = sorted(folder.glob("*.jwk"))
    if not paths and auto_create:
        save_key(folder, make_key(status="active", created=int(now)))
        paths = sorted(folder.glob("*.jwk"))
    keys = tuple(_load(path) for path in paths)
    if sum(key.status == "active" for key in keys) != 1:
        raise KeyFileRefused(f"{folder}: not exactly one key is active")
    return keys


def save_key(folder: Path, pair: IssuerKeyPair) -> Path:
    """Write a key whole: a temporary file, synced, renamed."""
    private = encode_base64url(pair.key.private_bytes_raw())
    members = {**public_jwk(pair.key), "d": private, "kid": pair.kid, "alg": "Ed25519", "created": pair.created, "status": pair.status}
    path = folder / f"{pair.kid}.jwk"
    temporary = folder / f".{pair.kid}.new"
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    with os.fdopen(fd, "wb") as file:
        file.write(json.dumps(members, indent=1).encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())
    temporary.rename(path)
    return path


def _load(path: Path) -> IssuerKeyPair:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW) if not path.is_symlink() else -1
    if fd < 0:
        raise KeyFileRefused(f"{path}: it is a symbolic link")
    with os.fdopen(fd, "rb") as file:
        _check(path, os.fstat(file.fileno()))
        text = file.read(_LIMIT_BYTES + 1)
    try:
        members = parse_json_object(text)
        key = Ed25519PrivateKey.from_private_bytes(decode_base64url(str(members["d"])))
        created = members["created"]
        status = members["status"]
        shown = {name: members[name] for name in ("kty", "crv", "x")}
    except (ValueError, KeyError):
        raise KeyFileRefused(f"{path}: it is not a private Ed25519 JWK with created and status") from None
    if shown != public_jwk(key):
        raise KeyFileRefused(f"{path}: its public and private halves are not one key")
    if members.get("kid") != thumbprint_of(key) or path.stem != members["kid"]:
        raise KeyFileRefused(f"{path}: its kid is not its RFC 7638 thumbprint, or not its name")
    if status not in STATUSES or type(created) is not int:
        raise KeyFileRefused(f"{path}: its status is not one of {', '.join(STATUSES)}, or created is no number")
    return IssuerKeyPair(kid=str(members["kid"]), status=str(status), created=created, key=key)


def _check(path: Path, found: os.stat_result, *, directory: bool = False) -> None:
    if stat.S_ISLNK(found.st_mode) or stat.S_ISDIR(found.st_mode) != directory or not (directory or stat.S_ISREG(found.st_mode)):
        raise KeyFileRefused(f"{path}: it is not a {'folder' if directory else 'regular file'}")
    if found.st_mode & 0o077:
        wanted = 0o700 if directory else 0o600
        raise KeyFileRefused(f"{path}: its mode is {stat.S_IMODE(found.st_mode):04o}, so others can reach it; chmod {wanted:04o} it")
    if found.st_uid != os.geteuid():
        raise KeyFileRefused(f"{path}: it belongs to another user")


def load_public_keys(paths: tuple[Path, ...]) -> dict[str, PublicKey]:
    """Pinned public keys by kid, of files with one JWK each. Raises KeyFileRefused, OSError."""
    found = {}
    for path in paths:
        try:
            members = parse_json_object(path.read_bytes()[: _LIMIT_BYTES + 1])
            key = parse_public({name: value for name, value in members.items() if name in ("kty", "crv", "x", "d")})
        except ValueError:
            raise KeyFileRefused(f"{path}: it is not a public Ed25519 JWK") from None
        if os.stat(path).st_mode & stat.S_IWOTH:
            raise KeyFileRefused(f"{path}: everyone can replace it; chmod o-w it")
        found[str(members.get("kid", key.thumbprint))] = key
    return found

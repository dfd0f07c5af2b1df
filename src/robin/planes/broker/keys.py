"""The issuer's keys on disk: one Ed25519 JWK a file, named by its thumbprint, read strictly and written whole.

Rules: the folder is 0700, a file 0600, both of our own user and no symbolic link; exactly one key is active. Anything else ends the start
with the file and the rule, since a key that others can read or replace can mint every passport.
"""

import contextlib
import errno
import json
import os
import stat
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from robin.transport.private_file import write_private
from robin.wire.compact_jws import decode_base64url, encode_base64url
from robin.wire.passport_keys import PublicKey, parse_public, public_jwk, thumbprint_of
from robin.wire.strict_json import parse_json_object

STATUSES: Final = ("next", "active", "retiring")
RETIRING_S: Final = 630
"""How long passports of a key that signs no more may be accepted: their longest life, and the most that clocks may differ."""
_LIMIT_BYTES: Final = 4096


class KeyFileRefused(Exception):
    """A key file or folder breaks a rule; the message names both."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class IssuerKeyPair:
    """One issuer key. `created`, and `since` when it has its status, in epoch seconds."""

    kid: str
    status: str
    created: int
    since: int
    key: Ed25519PrivateKey


def make_key(*, status: str, created: int) -> IssuerKeyPair:
    """A new key in memory. Its kid is an argument of commands, so it does not begin as a flag does."""
    key = Ed25519PrivateKey.generate()
    while thumbprint_of(key).startswith("-"):
        key = Ed25519PrivateKey.generate()
    return IssuerKeyPair(kid=thumbprint_of(key), status=status, created=created, since=created, key=key)


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
    check_one_active(folder, keys)
    return keys


def check_one_active(folder: Path, keys: tuple[IssuerKeyPair, ...]) -> None:
    """Raise KeyFileRefused unless exactly one key signs."""
    if sum(key.status == "active" for key in keys) != 1:
        raise KeyFileRefused(f"{folder}: not exactly one key is active")


def add_key(folder: Path, *, now: int) -> IssuerKeyPair:
    """Make one more key: the first one is active, others wait for `activate_key`. Raises as `load_keys`."""
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700, parents=True)
    pair = make_key(status="next" if _load_some(folder) else "active", created=now)
    save_key(folder, pair)
    return pair


def activate_key(folder: Path, kid: str, *, now: int) -> None:
    """Make this the key that signs, and the one before `retiring`: it stays in bundles for a while. Raises as `load_keys`.

    Two files are written. Between them no key is active, and nothing starts or reloads; the same command again goes on from there.
    """
    keys = _load_some(folder)
    chosen = _find(keys, kid, folder)
    for key in keys:
        if key.status == "active" and key is not chosen:
            save_key(folder, replace(key, status="retiring", since=now))
    if chosen.status != "active":
        save_key(folder, replace(chosen, status="active", since=now))


def retire_key(folder: Path, kid: str, *, now: int) -> int:
    """Remove a key that is retiring. Returns the seconds that it has to stay, 0 where it is gone. Raises as `load_keys`."""
    key = _find(_load_some(folder), kid, folder)
    if key.status != "retiring":
        raise KeyFileRefused(f"{folder}: {kid} is {key.status}; activate another key first")
    left_s = key.since + RETIRING_S - now
    if left_s <= 0:
        (folder / f"{kid}.jwk").unlink()
    return max(0, left_s)


def _load_some(folder: Path) -> tuple[IssuerKeyPair, ...]:
    _check(folder, os.lstat(folder), directory=True)
    return tuple(_load(path) for path in sorted(folder.glob("*.jwk")))


def _find(keys: tuple[IssuerKeyPair, ...], kid: str, folder: Path) -> IssuerKeyPair:
    found = next((key for key in keys if key.kid == kid), None)
    if found is None:
        raise KeyFileRefused(f"{folder}: there is no key {kid}")
    return found


def save_key(folder: Path, pair: IssuerKeyPair) -> Path:
    """Write a key whole: a temporary file, synced, renamed."""
    private = encode_base64url(pair.key.private_bytes_raw())
    members: dict[str, object] = {**public_jwk(pair.key), "d": private, "kid": pair.kid, "alg": "Ed25519"}
    members |= {"created": pair.created, "status": pair.status, "since": pair.since}
    path = folder / f"{pair.kid}.jwk"
    write_private(path, json.dumps(members, indent=1).encode() + b"\n")
    return path


def check_folders(state_dir: Path, socket: Path | None) -> None:
    """Raise KeyFileRefused where others can replace keys, bundle serial or audit log, or could listen in our place."""
    for folder in (state_dir, *(() if socket is None else (socket.parent,))):
        if folder.exists():
            _check_folder(folder)


def _check_folder(path: Path) -> None:
    found = os.stat(path)
    if found.st_mode & 0o022 or found.st_uid not in (os.geteuid(), 0):
        raise KeyFileRefused(f"{path}: others can write to it; use a folder of the broker's user that it alone may write to")


def _load(path: Path) -> IssuerKeyPair:
    found, text = read_key_file(path)
    _check(path, found)
    return parse_key_file(path, text)


def read_key_file(path: Path) -> tuple[os.stat_result, bytes]:
    """A regular file that is no link: its status, and its bytes up to one more than a key may have. Raises KeyFileRefused, OSError."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise KeyFileRefused(f"{path}: it is a symbolic link") from None
        raise
    with os.fdopen(fd, "rb") as file:
        found = os.fstat(file.fileno())
        if not stat.S_ISREG(found.st_mode):
            raise KeyFileRefused(f"{path}: it is not a regular file")
        return found, file.read(_LIMIT_BYTES + 1)


def parse_key_file(path: Path, text: bytes) -> IssuerKeyPair:
    """The key in the text of the file of this name. Raises KeyFileRefused."""
    try:
        members = parse_json_object(text)
        key = Ed25519PrivateKey.from_private_bytes(decode_base64url(str(members["d"])))
        created = members["created"]
        since = members.get("since", created)
        status = members["status"]
        shown = {name: members[name] for name in ("kty", "crv", "x")}
    except (ValueError, KeyError):
        raise KeyFileRefused(f"{path}: it is not a private Ed25519 JWK with created and status") from None
    if shown != public_jwk(key):
        raise KeyFileRefused(f"{path}: its public and private halves are not one key")
    if members.get("kid") != thumbprint_of(key) or path.stem != members["kid"]:
        raise KeyFileRefused(f"{path}: its kid is not its RFC 7638 thumbprint, or not its name")
    if status not in STATUSES or type(created) is not int or type(since) is not int:
        raise KeyFileRefused(f"{path}: its status is not one of {', '.join(STATUSES)}, or created or since is no number")
    return IssuerKeyPair(kid=str(members["kid"]), status=str(status), created=created, since=since, key=key)


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
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_mode & stat.S_IWOTH:
                raise KeyFileRefused(f"{path}: everyone can replace it; chmod o-w it")
            text = file.read(_LIMIT_BYTES + 1)
        try:
            members = parse_json_object(text)
            key = parse_public({name: value for name, value in members.items() if name in ("kty", "crv", "x", "d")})
        except ValueError:
            raise KeyFileRefused(f"{path}: it is not a public Ed25519 JWK") from None
        found[str(members.get("kid", key.thumbprint))] = key
    return found


def load_bundle_key(path: Path) -> Ed25519PrivateKey:
    """The private key that signs bundles, as `robin passport bundle keygen` wrote it. Raises KeyFileRefused, OSError."""
    with path.open("rb") as file:
        if os.fstat(file.fileno()).st_mode & 0o007:
            raise KeyFileRefused(f"{path}: everyone can reach it; chmod 0600 it")
        text = file.read(_LIMIT_BYTES + 1)
    try:
        members = parse_json_object(text)
        key = Ed25519PrivateKey.from_private_bytes(decode_base64url(str(members["d"])))
    except (ValueError, KeyError):
        raise KeyFileRefused(f"{path}: it is not a private Ed25519 JWK") from None
    if members.get("x") != public_jwk(key)["x"]:
        raise KeyFileRefused(f"{path}: its public and private halves are not one key")
    return key

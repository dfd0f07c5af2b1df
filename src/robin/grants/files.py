"""Tokens and keys that something else keeps in files: read again when they change, looked at once a second, refused where anyone can write.

The text is hostile input like any other: one line of visible ASCII. No reason or detail holds a byte of it.
"""

import os
import stat
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from robin.model.faults import Fault
from robin.model.secret import Secret
from robin.wire.client_assertion import KEY_BYTES_MAX, AssertionKey, BadAssertionKey, parse_key
from robin.wire.jwt_inspection import fingerprint
from robin.wire.oauth import clean_token, token_expires_at

TOKEN_BYTES_MAX: Final = 16384
_LOOK_S: Final = 1.0
_SETTLED_S: Final = 2.0  # two writes within the grain of a file system's clock have equal times
_FLAGS: Final = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC  # O_NONBLOCK: a FIFO must not hang us
_OTHERS_WRITE: Final = 0o002
_OTHERS_ANY: Final = 0o007


class UnusableFile(Exception):
    """Why a file cannot be used: a stable reason word, and words for people. It holds nothing of the file."""

    def __init__(self, reason: str, text: str) -> None:
        super().__init__(reason, text)
        self.reason = reason
        self.text = text


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FileToken:
    """The token of a file. `expires_at`: its `exp` if it is a JWT, else None."""

    value: Secret
    expires_at: float | None


def read_secret(path: str, *, limit_bytes: int, refused_mode: int) -> Secret:
    """The content of a regular file on which others have none of the rights `refused_mode`. Raises UnusableFile."""
    try:
        descriptor = os.open(path, _FLAGS)
    except FileNotFoundError:
        raise UnusableFile("missing", "it is not there") from None
    except OSError as error:
        raise UnusableFile("unreadable", error.strerror or "it cannot be opened") from None
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise UnusableFile("not_a_file", "it is no regular file")
        if found.st_mode & refused_mode:
            raise UnusableFile("open_to_others", f"others can {'read or ' if refused_mode == _OTHERS_ANY else ''}write it")
        octets = b""
        while piece := os.read(descriptor, limit_bytes + 1 - len(octets)):
            octets += piece
            if len(octets) > limit_bytes:
                raise UnusableFile("too_large", f"it is larger than {limit_bytes} bytes")
    except OSError as error:
        raise UnusableFile("unreadable", error.strerror or "it cannot be read") from None
    finally:
        os.close(descriptor)
    return Secret(octets)


def read_token(path: str) -> FileToken:
    """The one token of a file, but for its end of line. Raises UnusableFile."""
    token = clean_token(read_secret(path, limit_bytes=TOKEN_BYTES_MAX + 2, refused_mode=_OTHERS_WRITE), TOKEN_BYTES_MAX)
    if token is None:
        raise UnusableFile("malformed", "it is empty, too long, or not one line of visible ASCII")
    return FileToken(value=token, expires_at=token_expires_at(token))


def read_key(path: str) -> AssertionKey:
    """The private key of a file. Raises UnusableFile."""
    content = read_secret(path, limit_bytes=KEY_BYTES_MAX, refused_mode=_OTHERS_ANY)
    try:
        return parse_key(content)
    except BadAssertionKey as bad:
        raise UnusableFile("malformed", str(bad)) from None


class _Watched:
    """What stands in a file, parsed once for each of its versions."""

    __slots__ = ("_key", "_looked_at", "_monotonic", "_path", "_unusable", "_wall")

    def __init__(self, path: str, *, monotonic: Callable[[], float], wall: Callable[[], float]) -> None:
        self._path = path
        self._monotonic = monotonic
        self._wall = wall
        self._key: tuple[int, ...] | None = None
        self._looked_at = float("-inf")
        self._unusable: UnusableFile | None = None

    def _changed(self, *, at_once: bool) -> bool:
        """Whether the file is to be read: it is another one than before, as far as `stat` can see."""
        now = self._monotonic()
        if not at_once and now < self._looked_at + _LOOK_S:
            return False
        self._looked_at = now
        try:
            found = os.stat(self._path)
            key = (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_mode)
        except OSError:
            key = None
        if key is not None and key == self._key:
            return False
        settled = key is not None and self._wall() - max(found.st_mtime, found.st_ctime) > _SETTLED_S
        self._key = key if settled else None  # a file that is being written is read again at the next look
        return True

    def _fault(self) -> Fault:
        unusable = self._unusable
        assert unusable is not None
        text = f"{unusable.reason}: the file of this credential cannot be used: {unusable.text}; write it anew and rename it into place"
        return Fault("static_credential_unavailable", text)


class TokenFile(_Watched):
    """A token in a file."""

    __slots__ = ("_token",)

    def __init__(self, path: str, *, monotonic: Callable[[], float], wall: Callable[[], float]) -> None:
        super().__init__(path, monotonic=monotonic, wall=wall)
        self._token: FileToken | None = None

    def ready(self, *, at_once: bool = False) -> FileToken:
        """The token: the same object until the file changes. `at_once`: look at the file now. Raises Fault."""
        if self._changed(at_once=at_once):
            try:
                found = read_token(self._path)
            except UnusableFile as unusable:
                self._token, self._unusable = None, unusable
            else:
                same = self._token is not None and fingerprint(self._token.value) == fingerprint(found.value)
                self._token = self._token if same else found
        if self._token is None:
            raise self._fault()
        expires_at = self._token.expires_at
        if expires_at is not None and self._wall() >= expires_at:
            raise Fault("static_credential_unavailable", "expired: the token in the file has expired; renew the file")
        return self._token


class KeyFile(_Watched):
    """A private key in a file."""

    __slots__ = ("_found",)

    def __init__(self, path: str, *, monotonic: Callable[[], float], wall: Callable[[], float]) -> None:
        super().__init__(path, monotonic=monotonic, wall=wall)
        self._found: AssertionKey | None = None

    def ready(self) -> AssertionKey:
        """The key. Raises Fault."""
        if self._changed(at_once=False):
            try:
                self._found = read_key(self._path)
            except UnusableFile as unusable:
                self._found, self._unusable = None, unusable
        if self._found is None:
            raise self._fault()
        return self._found

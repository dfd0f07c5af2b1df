"""Robin's own credential towards the cluster: a token file that rotates, or a client certificate. It mints, and it carries no request."""

import os
from typing import Final

from robin.model.secret import Secret
from robin.transport.clock import Clock

_LOOK_S: Final = 1.0
_TOKEN_BYTES: Final = 65536


class Bootstrap:
    """`token_file` empty: the client certificate of `tls` authenticates. The file is looked at once a second at most."""

    __slots__ = ("_clock", "_looked_at", "_path", "_seen", "_token")

    def __init__(self, token_file: str, clock: Clock) -> None:
        self._path = token_file
        self._clock = clock
        self._looked_at = -_LOOK_S
        self._seen: tuple[int, ...] = ()
        self._token: Secret | None = None

    def fields(self, *, anew: bool = False) -> tuple[tuple[str, Secret], ...] | None:
        """The Authorization field; empty for a client certificate; None where the file has no token. `anew`: look at the file now."""
        if not self._path:
            return ()
        now = self._clock.monotonic()
        if anew or now - self._looked_at >= _LOOK_S:
            self._looked_at = now
            self._look(anew=anew)
        return None if self._token is None else (("Authorization", self._token),)

    def _look(self, *, anew: bool) -> None:
        """Read the file if it changed; one that cannot be read keeps the last good value."""
        try:
            status = os.stat(self._path)
            seen = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
            if seen == self._seen and not anew:
                return
            with open(os.open(self._path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
                octets = file.read(_TOKEN_BYTES).strip()
        except OSError:
            return
        if octets and octets.isascii() and octets.decode("ascii").isprintable():
            self._token, self._seen = Secret(b"Bearer " + octets), seen

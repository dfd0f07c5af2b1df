"""Robin's own credential towards the cluster: a token file that rotates, or a client certificate. It mints, and it carries no request."""

import os
from typing import Final

from robin.model.secret import Secret
from robin.transport.clock import Clock
from robin.transport.tls import file_identity
from robin.wire.compact_jws import decode_base64url
from robin.wire.jwt_inspection import numeric_date
from robin.wire.strict_json import parse_json_object

_LOOK_S: Final = 1.0
_TOKEN_BYTES: Final = 65536


class Bootstrap:
    """`token_file` empty: the client certificate authenticates, by TLS. The file is looked at once a second at most."""

    __slots__ = ("_certificate_file", "_clock", "_ends_at", "_looked_at", "_path", "_seen", "_token")

    def __init__(self, token_file: str, certificate_file: str, clock: Clock) -> None:
        self._path = token_file
        self._certificate_file = certificate_file
        self._clock = clock
        self._looked_at = -_LOOK_S
        self._seen: tuple[int, ...] = ()
        self._token: Secret | None = None
        self._ends_at: float | None = None

    def fields(self, *, anew: bool = False) -> tuple[tuple[str, Secret], ...] | None:
        """The Authorization field; empty for a client certificate; None where the file has no token. `anew`: look at the file now."""
        if not self._path:
            return ()
        now = self._clock.monotonic()
        if anew or now - self._looked_at >= _LOOK_S:
            self._looked_at = now
            self._look(anew=anew)
        return None if self._token is None else (("Authorization", self._token),)

    def expires_in_s(self) -> float | None:
        """How long the credential lives on, None where it does not say; negative once it has expired."""
        ends_at = self._ends_at if self._path else _certificate_end(self._certificate_file)
        return None if ends_at is None else ends_at - self._clock.wall()

    def _look(self, *, anew: bool) -> None:
        """Read the file if it changed; one that cannot be read keeps the last good value."""
        try:
            seen = file_identity(self._path)
            if seen == self._seen and not anew:
                return
            with open(os.open(self._path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
                octets = file.read(_TOKEN_BYTES).strip()
        except OSError:
            return
        if octets and octets.isascii() and octets.decode("ascii").isprintable():
            self._token, self._seen, self._ends_at = Secret(b"Bearer " + octets), seen, _token_end(octets.decode("ascii"))


def _token_end(token: str) -> float | None:
    """`exp` of a JWT; only to show it."""
    segments = token.split(".")
    try:
        claims = parse_json_object(decode_base64url(segments[1])) if len(segments) == 3 else {}
    except ValueError:
        return None
    return numeric_date(claims.get("exp"))


def _certificate_end(path: str) -> float | None:
    from cryptography import x509  # noqa: PLC0415 - only a scrape pays for it

    try:
        with open(path, "rb") as file:
            return x509.load_pem_x509_certificate(file.read(_TOKEN_BYTES)).not_valid_after_utc.timestamp()
    except (OSError, ValueError):
        return None

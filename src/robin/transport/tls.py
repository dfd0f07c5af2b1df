"""TLS towards the upstream: TLS 1.2 or newer, the name verified, roots from one PEM file or the system; re-read when the file changes.

Each successful load is a new generation; the pool reuses a connection only within its own generation, so a CA reload retires old ones.
"""

import os
import ssl
import stat
from collections.abc import Callable

from robin.model.exhaustion import EXHAUSTED
from robin.model.faults import Fault

_BUNDLE_BYTES = 8 * 1024 * 1024


class RootsError(Exception):
    """The bundle of ROBIN_UPSTREAM_CA_FILE cannot be used; the message says why."""


def client_context(ca_file: str | None) -> ssl.SSLContext:
    """A context that verifies chain and name. Raises RootsError; OSError where the machine is at fault, not the bundle."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION  # of TLS 1.2: nobody's wish is served by it, and it stops writing for as long as it lasts
    context.set_alpn_protocols(["http/1.1"])
    if ca_file is None:
        context.load_default_certs(ssl.Purpose.SERVER_AUTH)
    else:
        _load_bundle(context, ca_file)
    return context


def _load_bundle(context: ssl.SSLContext, ca_file: str) -> None:
    try:
        context.load_verify_locations(cadata=_read(ca_file).decode("ascii", "backslashreplace"))  # comments may be in any language
    except (ssl.SSLError, ValueError):
        raise RootsError("not a usable PEM bundle") from None
    except OSError as error:
        if error.errno in EXHAUSTED:
            raise
        raise RootsError(error.strerror or type(error).__name__) from None
    if not context.cert_store_stats()["x509"]:
        raise RootsError("the bundle holds no certificate")


def _read(ca_file: str) -> bytes:
    with open(ca_file, "rb", opener=_open_at_once) as bundle:
        if not stat.S_ISREG(os.fstat(bundle.fileno()).st_mode):
            raise RootsError("the bundle is not a regular file")
        pem = bundle.read(_BUNDLE_BYTES + 1)
    if len(pem) > _BUNDLE_BYTES:
        raise RootsError("the bundle exceeds 8 MiB")
    return pem


def _open_at_once(path: str, flags: int) -> int:
    """A FIFO in the bundle's place must not hang the loop."""
    return os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC)


def tls_fault(error: ssl.SSLError | ssl.CertificateError) -> Fault:
    """The Fault for a failed handshake: why, in one word, and never the peer's own text."""
    if isinstance(error, ssl.SSLCertVerificationError):
        code = error.verify_code
        if code in {9, 10}:
            word = "not_yet_valid" if code == 9 else "expired"
        elif code in {62, 63, 64}:
            word = "name_mismatch"
        else:
            word = "unknown_ca"
        fix = "check the name in ROBIN_UPSTREAM_URL" if word == "name_mismatch" else "check ROBIN_UPSTREAM_CA_FILE"
        return Fault("upstream_certificate", f"{word}: {fix}")
    return Fault("upstream_tls", "alert: the TLS handshake with the upstream failed (TLS 1.2 or newer is required)")


class UpstreamTls:
    """The current context and its generation. `on_reload(result)` hears `loaded` or `failed`."""

    __slots__ = ("_key", "_on_reload", "ca_file", "context", "generation")

    def __init__(self, ca_file: str | None, on_reload: Callable[[str], None]) -> None:
        """Load the first context. Raises like `client_context`."""
        self.ca_file = ca_file
        self._on_reload = on_reload
        self._key = self._stat()
        self.context = client_context(ca_file)
        self.generation = 0

    def _stat(self) -> tuple[int, ...] | None:
        if self.ca_file is None:
            return None
        try:
            status = os.stat(self.ca_file)
        except OSError:
            return ()
        return (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)

    def refresh(self) -> None:
        """Reload if the file changed since it was last read."""
        key = self._stat()
        if key != self._key:
            self._key = key
            self.reload()

    def reload(self) -> bool:
        """Read the roots again; a broken bundle keeps the old ones. Whether it was loaded."""
        try:
            context = client_context(self.ca_file)
        except (RootsError, OSError) as error:
            if not isinstance(error, RootsError):
                self._key = None  # the bundle may be good: look again at the next refresh
            self._on_reload("failed")
            return False
        self.context = context
        self.generation += 1
        self._on_reload("loaded")
        return True

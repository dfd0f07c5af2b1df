"""TLS towards upstreams: TLS 1.2 or newer, chain and name verified; one context per TLS profile, loaded again when its files change.

Rules a reader must keep: each successful load is a new generation of its profile, and the pool reuses a connection only within the
generation that verified it. Files that cannot be used keep the context that was loaded before.
"""

import os
import ssl
import stat
from collections.abc import Callable, Iterable
from typing import Final

from robin.model.exhaustion import EXHAUSTED
from robin.model.faults import Fault
from robin.model.route import TlsProfile

_FILE_BYTES: Final = 8 * 1024 * 1024
_SYSTEM: Final = TlsProfile()


class TlsFileError(Exception):
    """A file of a TLS profile cannot be used; the message has the reason."""


def new_context(protocol: int) -> ssl.SSLContext:
    """What both roles have in common."""
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION  # of TLS 1.2: it is of no use here, and stops writing for as long as it lasts
    context.set_alpn_protocols(["http/1.1"])
    return context


def client_context(profile: TlsProfile) -> ssl.SSLContext:
    """A context that verifies chain and name. Raises TlsFileError; OSError where the machine is at fault, not the file."""
    context = new_context(ssl.PROTOCOL_TLS_CLIENT)
    if profile.minimum == "1.3":
        context.minimum_version = ssl.TLSVersion.TLSv1_3
    if profile.ca_file is not None:
        load_roots(context, profile.ca_file)
    else:
        if profile.system_roots:
            context.load_default_certs(ssl.Purpose.SERVER_AUTH)
        for extra in profile.extra_ca_files:
            load_roots(context, extra)
    if profile.certificate_file is not None:
        _load_certificate(context, profile.certificate_file, profile.key_file)
    return context


def load_roots(context: ssl.SSLContext, ca_file: str) -> None:
    """Trust the certificates of a PEM bundle too. Raises TlsFileError, OSError as `client_context` does."""
    pem = read_file(ca_file, "the bundle").decode("ascii", "backslashreplace")  # comments may be in any language
    try:
        context.load_verify_locations(cadata=pem)
    except (ssl.SSLError, ValueError):
        raise TlsFileError("not a usable PEM bundle") from None
    if not context.cert_store_stats()["x509"]:
        raise TlsFileError("the bundle holds no certificate")


def _load_certificate(context: ssl.SSLContext, certificate_file: str, key_file: str | None) -> None:
    """`key_file` None: the key is in `certificate_file` too."""
    for path in (certificate_file, key_file):
        if path is not None:
            read_file(path, "the client certificate or its key")  # OpenSSL opens the files itself, and would wait for the writer of a FIFO
    try:
        context.load_cert_chain(certificate_file, key_file, password="")  # an encrypted key fails, and does not ask on a terminal
    except (ssl.SSLError, ValueError):
        raise TlsFileError("not a usable client certificate with its unencrypted key (PEM)") from None
    except OSError as error:
        raise _file_error(error) from None


def read_file(path: str, what: str) -> bytes:
    """The content of a regular file of at most 8 MiB; `what` names it in the error. Raises like `load_roots`."""
    try:
        with open(path, "rb", opener=_open_nonblocking) as opened:
            if not stat.S_ISREG(os.fstat(opened.fileno()).st_mode):
                raise TlsFileError(f"{what} is not a regular file")
            pem = opened.read(_FILE_BYTES + 1)
    except OSError as error:
        raise _file_error(error) from None
    if len(pem) > _FILE_BYTES:
        raise TlsFileError(f"{what} exceeds 8 MiB")
    return pem


def _file_error(error: OSError) -> Exception:
    return error if error.errno in EXHAUSTED else TlsFileError(error.strerror or type(error).__name__)


def _open_nonblocking(path: str, flags: int) -> int:
    """Open so that a FIFO in the file's place cannot stop the loop."""
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
        fix = "check the name in {upstream_url}" if word == "name_mismatch" else "check {upstream_ca_file}"
        return Fault("upstream_certificate", f"{word}: {fix}")
    return Fault("upstream_tls", "alert: the TLS handshake with the upstream failed (TLS 1.2 or newer is required)")


class TlsClient:
    """The context of one profile, and its generation: the number of times it was loaded again."""

    __slots__ = ("_files", "_on_reload", "_seen", "context", "generation", "profile")

    def __init__(self, profile: TlsProfile, on_reload: Callable[[TlsProfile, str], None]) -> None:
        """Load the first context. Raises like `client_context`."""
        self.profile = profile
        self._on_reload = on_reload
        self._files = tuple(
            path for path in (profile.ca_file, *profile.extra_ca_files, profile.certificate_file, profile.key_file) if path is not None
        )
        self._seen = self._stat()
        self.context = client_context(profile)
        self.generation = 0

    def _stat(self) -> tuple[tuple[int, ...], ...] | None:
        return tuple(file_identity(path) for path in self._files)

    def refresh(self) -> None:
        """Load again if a file changed since it was last read."""
        if not self._files:
            return
        seen = self._stat()
        if seen != self._seen:
            self._seen = seen
            self.reload()

    def reload(self) -> bool:
        """Load again; files that cannot be used keep the context. Returns True if it was loaded."""
        try:
            context = client_context(self.profile)
        except (TlsFileError, OSError) as error:
            if not isinstance(error, TlsFileError):
                self._seen = None  # the files may be good: try again at the next refresh
            self._on_reload(self.profile, "failed")
            return False
        self.context = context
        self.generation += 1
        self._on_reload(self.profile, "loaded")
        return True


def file_identity(path: str) -> tuple[int, ...]:
    """What changes when the file is written or replaced; empty if there is none."""
    try:
        status = os.stat(path)
    except OSError:
        return ()
    return (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


class UpstreamTls:
    """The contexts of every TLS profile in use. `on_reload(profile, result)` is called with `loaded` or `failed`."""

    __slots__ = ("_clients", "_on_reload")

    def __init__(self, on_reload: Callable[[TlsProfile, str], None], *, profiles: Iterable[TlsProfile] = ()) -> None:
        """Load `profiles` now. Raises like `client_context`."""
        self._on_reload = on_reload
        self._clients = {profile: TlsClient(profile, on_reload) for profile in profiles}

    def client(self, profile: TlsProfile | None) -> TlsClient:
        """The client of `profile`, loaded at its first use; None stands for the system's roots alone. Raises Fault.

        Profiles come from settings and are kept: they must not be made of what callers send.
        """
        profile = profile or _SYSTEM
        client = self._clients.get(profile)
        if client is None:
            try:
                client = self._clients[profile] = TlsClient(profile, self._on_reload)
            except TlsFileError:
                raise Fault("upstream_certificate", "unknown_ca: check {upstream_ca_file}") from None
            except OSError:
                raise Fault("limit_connections", "descriptors: this Robin can open no more; raise `ulimit -n`") from None
        return client

    def refresh(self) -> None:
        """Load again what changed."""
        for client in self._clients.values():
            client.refresh()

    def reload(self) -> None:
        """Load everything again."""
        for client in self._clients.values():
            client.reload()

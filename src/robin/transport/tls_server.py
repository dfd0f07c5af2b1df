"""The TLS context of a listener, from its certificate and key and the roots of its clients; loaded again when a file changes.

A connection goes on with the context it began with. Files that cannot be used keep the context that was loaded before.
"""

import os
import ssl
from collections.abc import Callable

from robin.model.secret import Secret
from robin.transport.tls import TlsFileError, file_identity, load_roots, new_context, read_file


def server_context(certificate_pem: bytes, key_pem: Secret, *, client_ca_file: str | None = None, required: bool = True) -> ssl.SSLContext:
    """A context that shows this certificate, with its chain behind it. Each handshake is a whole one: nothing can be resumed (decision 7).

    With `client_ca_file` a client's certificate is verified, its purpose too; `required` says whether one must be shown.
    Raises TlsFileError; OSError where the machine is at fault, not the file.
    """
    context = new_context(ssl.PROTOCOL_TLS_SERVER)
    context.options |= ssl.OP_NO_TICKET
    context.num_tickets = 0
    _load_pair(context, certificate_pem, key_pem)
    if client_ca_file is not None:
        load_roots(context, client_ca_file)
        context.verify_mode = ssl.CERT_REQUIRED if required else ssl.CERT_OPTIONAL
    return context


def _load_pair(context: ssl.SSLContext, certificate_pem: bytes, key_pem: Secret) -> None:
    """OpenSSL reads them from a descriptor that no path leads to, so that a minted key never touches a disk, and from one snapshot."""
    descriptor = os.memfd_create("tls", os.MFD_CLOEXEC)
    try:
        with open(descriptor, "wb", closefd=False) as pair:
            pair.write(key_pem.reveal() + b"\n" + certificate_pem)
        context.load_cert_chain(f"/proc/self/fd/{descriptor}", password=_no_password)
    except ssl.SSLError as error:
        mismatch = error.reason == "KEY_VALUES_MISMATCH"
        raise TlsFileError(
            "the key is not that of the certificate" if mismatch else "no usable PEM certificate and unencrypted key"
        ) from None
    except ValueError:
        raise TlsFileError("the key is encrypted") from None
    finally:
        os.close(descriptor)


def _no_password() -> str:
    """OpenSSL would ask for one on the terminal."""
    raise ValueError


class ServerTls:
    """The current context and its generation: how often it was loaded again. `on_reload(result)` is called with `loaded` or `failed`."""

    __slots__ = ("_certificate_file", "_client_ca_file", "_key_file", "_on_reload", "_required", "_seen", "context", "generation")

    def __init__(
        self,
        certificate_file: str,
        key_file: str,
        on_reload: Callable[[str], None],
        *,
        client_ca_file: str | None = None,
        required: bool = True,
    ) -> None:
        """Load the first context. Raises like `server_context`."""
        self._certificate_file = certificate_file
        self._key_file = key_file
        self._client_ca_file = client_ca_file
        self._required = required
        self._on_reload = on_reload
        self._seen: list[tuple[int, ...]] | None = self._stat()
        self.context = self._load()
        self.generation = 0

    def _stat(self) -> list[tuple[int, ...]]:
        files = (self._certificate_file, self._key_file, self._client_ca_file)
        return [file_identity(path) for path in files if path is not None]

    def _load(self) -> ssl.SSLContext:
        return server_context(
            read_file(self._certificate_file, "the certificate"),
            Secret(read_file(self._key_file, "the key")),
            client_ca_file=self._client_ca_file,
            required=self._required,
        )

    def refresh(self) -> None:
        """Load again if a file changed. A pair that is half replaced does not match, and is loaded when it is whole."""
        seen = self._stat()
        if seen != self._seen:
            self._seen = seen
            self.reload()

    def reload(self) -> bool:
        """Load again; files that cannot be used keep the context. Returns True if it was loaded."""
        try:
            context = self._load()
        except (TlsFileError, OSError) as error:
            if not isinstance(error, TlsFileError):
                self._seen = None  # the files may be good: try again at the next refresh
            self._on_reload("failed")
            return False
        self.context = context
        self.generation += 1
        self._on_reload("loaded")
        return True

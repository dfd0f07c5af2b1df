"""The public roots of this machine, as its packages keep them in one file."""

import ssl
from typing import Final

from robin.transport.tls import TlsFileError, read_file

_PLACES: Final = (
    "/etc/ssl/certs/ca-certificates.crt",  # Debian, Alpine, Arch
    "/etc/pki/tls/certs/ca-bundle.crt",  # Fedora, RHEL
    "/etc/ssl/ca-bundle.pem",  # SUSE
    "/etc/ssl/cert.pem",
)


def public_roots(*, named: bool = True) -> bytes:
    """PEM: what OpenSSL takes by default, else the first file of a known place; b"" for none.

    `named`: SSL_CERT_FILE may name another file. Without it a bundle that was made here is not taken for the public roots.
    """
    paths = ssl.get_default_verify_paths()
    for path in (paths.cafile if named else paths.openssl_cafile, *_PLACES):
        try:
            if path is not None and (found := read_file(path, "the public roots")):
                return found
        except (TlsFileError, OSError):
            continue
    return b""

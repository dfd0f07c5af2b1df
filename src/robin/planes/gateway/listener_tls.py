"""The TLS of a proxy listener: its certificate, and the caller that a client's certificate names (gateway.md section 4).

A client certificate that verifies and names no caller ends the connection before a byte of a request is read. With TLS 1.3 such a client
has finished its handshake already, so it sees the connection end and no alert.
"""

import asyncio
import contextlib
import math
import re
import socket
import ssl
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Final, TypeVar

from robin.model.caller import Caller, Evidence
from robin.model.faults import Fault
from robin.model.spiffe import is_workload_of
from robin.planes.gateway.authority import BridgeAuthority, MintedContext
from robin.planes.gateway.settings import MtlsSettings
from robin.proxy.downstream import Downstream
from robin.transport.tls import TlsFileError
from robin.transport.tls_stream import accept_tls, peer_certificate

if TYPE_CHECKING:
    from cryptography import x509

Extension = TypeVar("Extension", bound="x509.ExtensionType")

_CN = re.compile(r"[\x21-\x7e]{1,64}")
_OF_THE_CERTIFICATE: Final = frozenset({"CERTIFICATE_VERIFY_FAILED", "PEER_DID_NOT_RETURN_A_CERTIFICATE"})


class MintedTls:
    """A leaf of the bridge's CA for the names of the listener, signed anew in time and when another `authority` or CA signs."""

    __slots__ = ("_client_ca_file", "_kept", "_names", "_wall", "authority")

    def __init__(self, authority: BridgeAuthority, names: Sequence[str], *, client_ca_file: str | None, wall: Callable[[], float]) -> None:
        """Sign the first one. Raises like `BridgeAuthority.sign`."""
        self.authority = authority
        self._names = tuple(names)
        self._client_ca_file = client_ca_file
        self._wall = wall
        self._kept: MintedContext = authority.sign(*self._names, client_ca_file=client_ca_file)

    def context(self) -> ssl.SSLContext:
        """The context for the next connection; the last one where no new one can be made."""
        if self._wall() >= self._kept.refresh_at or self._kept.ca is not self.authority.ca:
            with contextlib.suppress(Fault, TlsFileError, OSError):
                self._kept = self.authority.sign(*self._names, client_ca_file=self._client_ca_file)
        return self._kept.context


class TlsOpener:
    """A `proxy.connection.Open`. `named` gives the caller by the certificate that was verified. `denied` records a refused connection."""

    __slots__ = ("_context", "_denied", "_loop", "_named", "_rejected", "_wall", "handshake_s")

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        context: Callable[[], ssl.SSLContext],
        *,
        handshake_s: float,
        named: Callable[[Caller, bytes | None], Caller],
        denied: Callable[[Caller, Fault], object],
        rejected: Callable[[str], None],
        wall: Callable[[], float],
    ) -> None:
        self._loop = loop
        self._context = context
        self.handshake_s = handshake_s
        self._named = named
        self._denied = denied
        self._rejected = rejected
        self._wall = wall

    async def __call__(self, sock: socket.socket, downstream: Downstream) -> None:
        """Shake hands, and put the caller that the client's certificate names into `downstream`. Raises OSError."""
        caller = downstream.caller
        try:
            async with asyncio.timeout(self.handshake_s):
                await accept_tls(self._loop, sock, downstream, self._context())
        except ssl.SSLError as error:
            self._rejected(str(error.reason or "unknown").lower())
            if error.reason in _OF_THE_CERTIFICATE:
                self._denied(caller, Fault("peer_denied", "certificate: the certificate of the client does not verify"))
            raise
        try:
            caller = downstream.caller = self._named(caller, peer_certificate(downstream))
        except Fault as fault:
            self._denied(caller, fault)
            raise ConnectionAbortedError from None
        if caller.expires_at != math.inf:
            downstream.expires_at = self._loop.time() + caller.expires_at - self._wall()


def certificate_caller(caller: Caller, der: bytes | None, settings: MtlsSettings) -> Caller:
    """The caller that a verified certificate names: the one SPIFFE ID in it, or its common name. Raises Fault `peer_denied`."""
    from cryptography import x509  # noqa: PLC0415 - only where a listener asks for certificates

    if der is None:
        raise _denied("there is no certificate")
    try:
        certificate = x509.load_der_x509_certificate(der)
        name = _name_in(certificate, settings)
    except ValueError:
        raise _denied("the certificate cannot be read") from None
    return replace(
        caller, evidence=Evidence.MTLS, id=name, certificate=der, expires_at=certificate.not_valid_after_utc.timestamp(), exposed=False
    )


def _name_in(certificate: "x509.Certificate", settings: MtlsSettings) -> str:
    from cryptography import x509  # noqa: PLC0415
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID  # noqa: PLC0415

    usage = _extension(certificate, x509.ExtendedKeyUsage)
    if usage is None or ExtendedKeyUsageOID.CLIENT_AUTH not in usage:
        raise _denied("the certificate is not one for clients (clientAuth)")
    constraints = _extension(certificate, x509.BasicConstraints)
    if constraints is not None and constraints.ca:
        raise _denied("the certificate is one of a CA")
    names = _extension(certificate, x509.SubjectAlternativeName)
    uris = [] if names is None else names.get_values_for_type(x509.UniformResourceIdentifier)
    if len(uris) > 1:
        raise _denied("the certificate has more than one URI")
    if uris:
        if not is_workload_of(uris[0], settings.trust_domains):
            raise _denied("the URI of the certificate is not a SPIFFE ID of a trust domain of the settings")
        return uris[0]
    common = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    if not settings.accept_cn or len(common) != 1:
        raise _denied("the certificate has no SPIFFE ID")
    text = common[0].value
    if not isinstance(text, str) or _CN.fullmatch(text) is None:
        raise _denied("the common name of the certificate is not one printable word")
    return f"cn:{text}"


def _extension(certificate: "x509.Certificate", kind: type[Extension]) -> Extension | None:
    from cryptography import x509  # noqa: PLC0415

    try:
        return certificate.extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None


def _denied(text: str) -> Fault:
    return Fault("peer_denied", f"certificate: {text}")

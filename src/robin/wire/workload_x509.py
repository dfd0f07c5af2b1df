"""The messages of `FetchX509SVID` (SPIFFE Workload API section 5.2): identities with chains and keys, and the anchors of their domain."""

from dataclasses import dataclass
from typing import Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_private_key

from robin.model.secret import Secret
from robin.wire.protobuf import BadMessage, as_text, length_fields, render_bytes, render_text

FETCH_X509_SVID: Final = "/SpiffeWorkloadAPI/FetchX509SVID"
X509_SVID_REQUEST: Final = b""  # the message has no fields
CHAIN_MAX: Final = 5
ANCHORS_MAX: Final = 64

_SVIDS_MAX: Final = 100
_FIELDS_MAX: Final = 400
_SVID_FIELDS_MAX: Final = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class X509SvidMessage:
    """One identity of a reply, unchecked. `chain`, leaf first, and `anchors`: DER certificates one behind the other; `key`: PKCS#8."""

    spiffe_id: str
    chain: bytes
    key: Secret
    anchors: bytes
    hint: str = ""


def parse_x509_reply(message: Secret) -> tuple[X509SvidMessage, ...]:
    """The identities of an X509SVIDResponse, in order; raises BadMessage. Federated bundles and revocation lists are passed over."""
    svids: list[X509SvidMessage] = []
    for number, value in length_fields(message.reveal(), _FIELDS_MAX):
        if number == 1:
            if len(svids) == _SVIDS_MAX:
                raise BadMessage("too many identities")
            svids.append(_parse_svid(value))
    return tuple(svids)


def render_x509_reply(svids: tuple[X509SvidMessage, ...]) -> bytes:
    """X509SVIDResponse."""
    return b"".join(render_bytes(1, _render_svid(svid)) for svid in svids)


def split_der(octets: bytes, most: int) -> tuple[bytes, ...]:
    """DER elements that stand one behind the other: at most `most`, each a SEQUENCE of definite length (X.690 8.1.3). Raises BadMessage."""
    found: list[bytes] = []
    at = 0
    while at < len(octets):
        if len(found) == most:
            raise BadMessage("too many certificates")
        end = at + 2
        if octets[at] != 0x30 or end > len(octets):
            raise BadMessage("not a certificate")
        size = octets[at + 1]
        if size >= 0x80:
            places = size & 0x7F
            if not 1 <= places <= 3 or end + places > len(octets):
                raise BadMessage("a certificate has no length")
            size = int.from_bytes(octets[end : end + places], "big")
            end += places
        if size > len(octets) - end:
            raise BadMessage("a certificate is cut short")
        found.append(octets[at : end + size])
        at = end + size
    return tuple(found)


def public_half(key: Secret) -> bytes:
    """SubjectPublicKeyInfo (DER) of a private key in PKCS#8. Raises ValueError for bytes that are no such key."""
    try:
        return load_der_private_key(key.reveal(), password=None).public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    except (TypeError, UnsupportedAlgorithm):
        raise ValueError("the key cannot be read") from None


def _parse_svid(message: bytes) -> X509SvidMessage:
    spiffe_id, chain, key, anchors, hint = "", b"", b"", b"", ""
    for number, value in length_fields(message, _SVID_FIELDS_MAX):
        if number == 1:
            spiffe_id = as_text(value)
        elif number == 2:
            chain = value
        elif number == 3:
            key = value
        elif number == 4:
            anchors = value
        elif number == 5:
            hint = as_text(value)
    return X509SvidMessage(spiffe_id=spiffe_id, chain=chain, key=Secret(key), anchors=anchors, hint=hint)


def _render_svid(svid: X509SvidMessage) -> bytes:
    parts = (render_text(1, svid.spiffe_id), render_bytes(2, svid.chain), render_bytes(3, svid.key.reveal()), render_bytes(4, svid.anchors))
    return b"".join(parts) + (render_text(5, svid.hint) if svid.hint else b"")

"""The broker's own X.509-SVID and the anchors of its trust domain, as the Workload API streams them.

Each message replaces the whole set; PermissionDenied empties it. A stream that ends is opened again after 1 s, doubling to 30 s, and the
last SVID is used until it expires, not a second longer (SPIFFE Workload API section 5).
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from robin.model.address import UnixAddress
from robin.model.passport_reasons import Refused
from robin.model.secret import Secret
from robin.policy.x509_svid import Svid, load_anchors, verify_svid
from robin.transport.control import ControlChannel
from robin.wire.protobuf import BadMessage
from robin.wire.workload_api import SECURITY_METADATA
from robin.wire.workload_x509 import (
    ANCHORS_MAX,
    CHAIN_MAX,
    FETCH_X509_SVID,
    X509_SVID_REQUEST,
    X509SvidMessage,
    parse_x509_reply,
    public_half,
    split_der,
)

_FIRST_S: Final = 10.0
_RETRY_FIRST_S: Final = 1.0
_RETRY_MOST_S: Final = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Material:
    """One message, read but not judged."""

    chain: tuple[bytes, ...]
    anchors: tuple[x509.Certificate, ...]


class SvidSource:
    """Holds what came last.

    `on_change(code, detail)`: an SVID was taken, with the empty code and its ID, or the stream or its SVID is lost, with the reason.
    """

    __slots__ = ("_channel", "_hint", "_material", "_on_change", "_problem", "_svid", "_trust_domain", "_wall")

    def __init__(
        self,
        endpoint: UnixAddress,
        *,
        trust_domain: str,
        hint: str | None,
        wall: Callable[[], float],
        on_change: Callable[[str, str], None],
    ) -> None:
        self._channel = ControlChannel(endpoint)
        self._trust_domain = trust_domain
        self._hint = hint
        self._wall = wall
        self._on_change = on_change
        self._material: _Material | None = None
        self._svid: Svid | None = None
        self._problem = Refused("workload_api_unavailable")

    def current(self) -> Svid:
        """The SVID, which is valid now. Raises Refused: workload_api_unavailable, svid_invalid, svid_untrusted, svid_expired."""
        material = self._held()
        if self._svid is None:
            self._svid = verify_svid(material.chain, material.anchors, self._trust_domain, self._wall())
        if self._wall() > self._svid.not_after_at:
            raise Refused("svid_expired")
        return self._svid

    def anchors(self) -> tuple[x509.Certificate, ...]:
        """The anchors of the trust domain, while the SVID that came with them is valid. Raises Refused as `current`."""
        self.current()
        return self._held().anchors

    @property
    def problem(self) -> str:
        """Why no passport can be issued now; empty while one can."""
        try:
            self.current()
        except Refused as refused:
            return refused.reason.code
        return ""

    @property
    def expires_at(self) -> float | None:
        """When the SVID expires, Unix seconds; None while there is none."""
        return None if self._svid is None else self._svid.not_after_at

    def take(self, message: Secret) -> None:
        """Replace what is held. What cannot be used leaves nothing: an identity that was withdrawn must not live on."""
        try:
            svids = parse_x509_reply(message)
            found = next((svid for svid in svids if self._hint in (None, svid.hint)), None)
            if found is None:
                raise Refused("svid_invalid", "no identity of the reply fits")
            material = _read(found)
            svid = verify_svid(material.chain, material.anchors, self._trust_domain, self._wall())
            if svid.spiffe_id != found.spiffe_id:
                raise Refused("svid_invalid", "spiffe_id")
        except BadMessage as error:
            self._drop(Refused("svid_invalid", str(error)), str(error))
        except Refused as refused:
            self._drop(refused, refused.detail)
        else:
            self._material, self._svid = material, svid
            self._on_change("", svid.spiffe_id)

    async def watch(self) -> None:
        """Follow the stream for ever."""
        wait_s = _RETRY_FIRST_S
        try:
            while True:
                before = self._material
                metadata = (SECURITY_METADATA,)
                ended = await self._channel.watch(FETCH_X509_SVID, metadata, X509_SVID_REQUEST, first_s=_FIRST_S, on_message=self.take)
                if ended.code == "PermissionDenied":
                    self._drop(Refused("workload_api_unavailable", "permission_denied"), "permission_denied")
                else:
                    self._on_change("workload_api_unavailable", f"{ended.code}: {ended.text}")
                wait_s = _RETRY_FIRST_S if self._material is not before else min(wait_s * 2, _RETRY_MOST_S)
                await asyncio.sleep(wait_s)
        finally:
            self._channel.close()

    def _held(self) -> _Material:
        if self._material is None:
            raise self._problem
        return self._material

    def _drop(self, problem: Refused, detail: str) -> None:
        self._material, self._svid, self._problem = None, None, problem
        self._on_change(problem.reason.code, detail)


def _read(message: X509SvidMessage) -> _Material:
    """Raises BadMessage, Refused."""
    chain = split_der(message.chain, CHAIN_MAX)
    anchors = load_anchors(split_der(message.anchors, ANCHORS_MAX))
    try:
        leaf = x509.load_der_x509_certificate(chain[0]).public_key() if chain else None
        if leaf is None or public_half(message.key) != leaf.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo):
            raise Refused("svid_invalid", "the key is not that of the certificate")
    except ValueError:
        raise Refused("svid_invalid", "certificate or key cannot be read") from None
    return _Material(chain=chain, anchors=anchors)

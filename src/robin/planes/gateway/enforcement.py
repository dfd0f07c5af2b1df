"""`GET /.robin/enforcement` of proxy listeners: what a probe in an agent's pod needs to find out whether its egress is closed.

No caller is needed: the probe runs before anything else in the pod, and what it learns is the address of the canary and the SHA-256 of
public certificates. Every other request in origin-form stays refused.
"""

import hashlib
import json
import ssl
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from robin.model.caller import Caller
from robin.model.message import RequestHead
from robin.model.verdict import LocalResponse
from robin.planes.gateway.canary import Canary
from robin.proxy.engine import Authenticate
from robin.telemetry.timestamp import TimestampFormatter

PATH: Final = b"/.robin/enforcement"
_FIELDS: Final = b"Content-Type: application/json\r\nCache-Control: no-store\r\n"
_END: Final = "-----END CERTIFICATE-----\n"


def is_enforcement(head: RequestHead) -> bool:
    """Whether it asks for the document. Only on a connection of its own: in a CONNECT the same path is one of the origin."""
    return head.method == "GET" and head.target == PATH and head.target_scheme is None


def without_caller(authenticate: Authenticate) -> Authenticate:
    """The same, but the document needs no caller. The policy permits nothing to a request in origin-form."""

    async def authenticated(head: RequestHead, caller: Caller) -> Caller:
        if is_enforcement(head):
            return replace(caller, id="anonymous")
        return await authenticate(head, caller)

    return authenticated


class Enforcement:
    """Answers it. `ca_pem` are the certificates that callers must trust."""

    __slots__ = ("_ca_pem", "_canary", "_format")

    def __init__(self, canary: Canary, ca_pem: Callable[[], bytes]) -> None:
        self._canary = canary
        self._ca_pem = ca_pem
        self._format = TimestampFormatter()

    def respond(self, head: RequestHead) -> LocalResponse | None:
        """The document, or None for another request."""
        if not is_enforcement(head):
            return None
        return LocalResponse(status=200, fields=_FIELDS, body=json.dumps(self._document()).encode("ascii") + b"\n")

    def _document(self) -> dict[str, object]:
        return {"canary": self._canary_part(), "ca": sorted(map(_fingerprint, _split(self._ca_pem())))}

    def _canary_part(self) -> dict[str, object] | None:
        """None: there is no canary, and nothing can be proven."""
        state = self._canary.state
        if state is None:
            return None
        self._canary.ask()
        addresses = [f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in state.addresses]
        return {
            "addresses": addresses,
            "up": state.up,
            "checked_at": None if state.checked_at is None else self._format.text(state.checked_at),
        }


def _split(pem: bytes) -> list[str]:
    return [part + _END for part in pem.decode("ascii", "replace").split(_END) if part.strip()]


def _fingerprint(pem: str) -> str:
    return hashlib.sha256(ssl.PEM_cert_to_DER_cert(pem)).hexdigest()

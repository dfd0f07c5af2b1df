"""What gRPC adds to HTTP/2 for a unary call: status names, message frames, status text; and the outcome of a call as a value.

Source: the gRPC over HTTP/2 protocol description and its HTTP and RST_STREAM status tables.
"""

import re
from dataclasses import dataclass
from typing import Final
from urllib.parse import unquote_to_bytes

from robin.model.secret import Secret

CODES: Final = (
    "OK",
    "Canceled",
    "Unknown",
    "InvalidArgument",
    "DeadlineExceeded",
    "NotFound",
    "AlreadyExists",
    "PermissionDenied",
    "ResourceExhausted",
    "FailedPrecondition",
    "Aborted",
    "OutOfRange",
    "Unimplemented",
    "Internal",
    "Unavailable",
    "DataLoss",
    "Unauthenticated",
)

_HTTP_CODES: Final = {
    400: "Internal",
    401: "Unauthenticated",
    403: "PermissionDenied",
    404: "Unimplemented",
    429: "Unavailable",
    502: "Unavailable",
    503: "Unavailable",
    504: "Unavailable",
}
_RESET_CODES: Final = {7: "Unavailable", 8: "Canceled", 11: "ResourceExhausted", 12: "PermissionDenied"}
_TEXT_LIMIT: Final = 200
_EMPTY: Final = Secret(b"")
_UNPRINTABLE: Final = re.compile(r"[^ -~]")
_TOKEN_LIKE: Final = re.compile(r"[A-Za-z0-9_\-+/=.]{40,}")


@dataclass(frozen=True, slots=True, kw_only=True)
class GrpcResponse:
    """How a call ended. `code` is one of CODES; `text` is printable, short and free of anything like a token; `body` is the one message."""

    code: str
    text: str = ""
    body: Secret = _EMPTY


def code_of_status(status: bytes) -> str:
    """The name of a `grpc-status` value; what is no status is Unknown."""
    number = int(status) if re.fullmatch(rb"[0-9]{1,2}", status) else 2
    return CODES[number] if number < len(CODES) else "Unknown"


def code_of_http(status: int) -> str:
    """The code for an HTTP status that is not 200, where the peer is no gRPC server."""
    return _HTTP_CODES.get(status, "Unknown")


def code_of_reset(error_code: int) -> str:
    """The code for an RST_STREAM of the peer."""
    return _RESET_CODES.get(error_code, "Internal")


def parse_status_text(value: bytes) -> str:
    """A `grpc-message`: percent-decoded, made printable, cut; a long run such as a token is hidden."""
    text = unquote_to_bytes(value[: 3 * _TEXT_LIMIT]).decode("utf-8", "replace")
    return _UNPRINTABLE.sub("?", _TOKEN_LIKE.sub("(hidden)", text))[:_TEXT_LIMIT]


def render_status_text(text: str) -> bytes:
    """A `grpc-message` value: UTF-8, everything but printable ASCII and `%` percent-encoded."""
    return b"".join(b"%c" % byte if 0x20 <= byte <= 0x7E and byte != 0x25 else b"%%%02X" % byte for byte in text.encode())


def render_message(message: bytes) -> bytes:
    """One length-prefixed message, not compressed."""
    return b"\0" + len(message).to_bytes(4, "big") + message


def parse_message(body: bytes) -> bytes | None:
    """The one message of a whole body; None where there is none, more than one, a cut one or a compressed one."""
    if len(body) < 5 or body[0] != 0 or int.from_bytes(body[1:5], "big") != len(body) - 5:
        return None
    return body[5:]

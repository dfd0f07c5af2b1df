"""Values of single fields that frame, route or guard a message (RFC 9110, RFC 9112)."""

import re
from typing import Final

TOKEN: Final = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
LENGTH_MAX: Final = 2**63 - 1
REWRITES: Final = frozenset(b"x-http-method x-http-method-override x-method-override x-original-url x-rewrite-url".split())
"""Fields in which a client gives another method or path than that of its request line, and some frameworks take it."""
_TOKEN = re.compile(TOKEN)
_CONTROL_IN_VALUE = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
_PORT: Final = rb"[0-5]?[0-9]{1,4}|6(?:[0-4][0-9]{3}|5(?:[0-4][0-9]{2}|5(?:[0-2][0-9]|3[0-5])))"
_HOST = re.compile(rb"(?:\[[0-9A-Fa-f:.]{2,45}\]|[0-9A-Za-z._~\-]{1,255})(?::(?:" + _PORT + rb"))?")
_KEEP_ALIVE_TIMEOUT = re.compile(rb"(?:^|[,;])[ \t]*timeout[ \t]*=[ \t]*([0-9]{1,6})[ \t]*(?:[,;]|$)", re.IGNORECASE)


def is_token(text: bytes) -> bool:
    """Whether `text` is an RFC 9110 token."""
    return _TOKEN.fullmatch(text) is not None


def trailer_is_valid(name: bytes, value: bytes) -> bool:
    """Whether a trailer line is a token and a value without controls."""
    return is_token(name) and _CONTROL_IN_VALUE.search(value) is None


def host_is_valid(value: bytes) -> bool:
    """Whether `value` is host[:port] (RFC 9110 7.2), of the characters that names and addresses really have."""
    return _HOST.fullmatch(value) is not None


def parse_length(value: bytes) -> int | None:
    """Content-Length as llhttp accepts it: digits, perhaps with leading zeros, perhaps beyond 2^63-1, which gives None."""
    if not value.isdigit():
        return None
    digits = value.lstrip(b"0")
    if len(digits) > 19 or (length := int(digits or b"0")) > LENGTH_MAX:
        return None
    return length


def parse_keep_alive(value: bytes) -> int | None:
    """The timeout that Keep-Alive announces, in seconds."""
    timeout = _KEEP_ALIVE_TIMEOUT.search(value)
    return int(timeout[1]) if timeout else None

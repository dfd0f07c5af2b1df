"""JSON from hostile peers: one object, UTF-8 without a byte order mark, no duplicate member at any depth, no NaN or Infinity (RFC 8259)."""

import json
from typing import NoReturn

JsonObject = dict[str, object]


def parse_json_object(text: bytes) -> JsonObject:
    """Return the object in `text`. Raises ValueError, whose message holds no byte of it; the caller bounds the size."""
    try:
        parsed = json.loads(text.decode("utf-8"), object_pairs_hook=_object, parse_constant=_refuse_constant)
    except (ValueError, RecursionError):  # ValueError covers JSON, UTF-8 and integers of thousands of digits
        raise ValueError("not a JSON object") from None
    if isinstance(parsed, dict):
        return parsed
    raise ValueError("not a JSON object")


def _object(pairs: list[tuple[str, object]]) -> JsonObject:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("a duplicate member")
    return members


def _refuse_constant(_word: str) -> NoReturn:
    raise ValueError("NaN and Infinity are not JSON")

"""JSON from hostile peers: one object, UTF-8 without a byte order mark, no duplicate member at any depth, no NaN or Infinity (RFC 8259).

Neither is a number that only Infinity can stand for, nor an escaped half of a surrogate pair, which no later text could hold (RFC 7493).
"""

import json
import math
from typing import NoReturn

JsonObject = dict[str, object]


def parse_json_object(text: bytes) -> JsonObject:
    """Return the object in `text`. Raises ValueError, whose message holds no byte of it; the caller bounds the size."""
    try:
        decoded = text.decode("utf-8")
        parsed = json.loads(decoded, object_pairs_hook=_object, parse_float=_finite, parse_constant=_refuse_constant)
        refuse_half_surrogates(parsed, text)
    except (ValueError, RecursionError):  # ValueError covers JSON, UTF-8 and integers of thousands of digits
        raise ValueError("not a JSON object") from None
    if isinstance(parsed, dict):
        return parsed
    raise ValueError("not a JSON object")


def refuse_half_surrogates(parsed: object, text: bytes) -> None:
    """Raise UnicodeEncodeError, a ValueError, where a name or a value of what was parsed from `text` is one that UTF-8 cannot hold."""
    if b"\\u" in text:  # there is no other way to write one
        json.dumps(parsed, ensure_ascii=False).encode()


def _object(pairs: list[tuple[str, object]]) -> JsonObject:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("a duplicate member")
    return members


def _finite(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise ValueError("a number beyond a double")
    return number


def _refuse_constant(_word: str) -> NoReturn:
    raise ValueError("NaN and Infinity are not JSON")

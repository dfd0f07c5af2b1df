"""The form of the audit chain, which all planes share: what a record's hash and a checkpoint's signature cover, and how a line is read.

A line is one JSON object of printable ASCII: `v seq prev hash ts plane event id` and the fields of the event. `hash` is the SHA-256, in
hexadecimal digits, of the RFC 8785 form of the record without `hash`; `prev` is the hash of the record before it, for the first record 64
zeros. Records hold text, whole numbers, bool, None, lists and objects: no fractions, so that the canonical form needs no rule for them.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Final

VERSION: Final = 1
ZEROS: Final = "0" * 64
LINE_BYTES: Final = 64 * 1024
"""The longest line, with its newline. A longer record is refused by the writer, a longer line by every reader."""

DEPTH_MAX: Final = 8
MEMBERS: Final = ("v", "seq", "prev", "hash", "ts", "plane", "event", "id")
"""What every record has, in this order; the fields of an event have other names."""

_INTEGER_MAX: Final = 2**53 - 1  # RFC 8785 takes the numbers of ECMAScript: beyond this they are not exact
_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,63}")
_HASH: Final = re.compile(r"[0-9a-f]{64}")


class RecordError(ValueError):
    """A record or a line does not have the form of the chain."""


def canonical(record: Mapping[str, object]) -> bytes:
    """The RFC 8785 form of a record that passed `check`: names are ASCII, so that the order by code point is that of UTF-16."""
    return json.dumps(record, ensure_ascii=False, sort_keys=True, separators=(",", ":")).encode()


def hash_of(record: Mapping[str, object]) -> str:
    """The hash of a record that does not have one yet, or whose `hash` is left out of account."""
    return hashlib.sha256(canonical({name: value for name, value in record.items() if name != "hash"})).hexdigest()


def render_line(record: Mapping[str, object]) -> bytes:
    """The line of a record, with its newline."""
    return json.dumps(record, separators=(",", ":")).encode() + b"\n"


def check(value: object, depth: int = DEPTH_MAX) -> None:
    """Raise RecordError unless `value` can be part of a record."""
    if value is None or isinstance(value, bool):
        return
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            raise RecordError("a text holds half of a surrogate pair") from None
    elif isinstance(value, int):
        if abs(value) > _INTEGER_MAX:
            raise RecordError("a number is beyond 2**53-1")
    elif not depth:
        raise RecordError("it is nested too deep")
    elif isinstance(value, dict):
        for name, item in value.items():
            if not isinstance(name, str) or not _NAME.fullmatch(name):
                raise RecordError("a name is not an ASCII identifier")
            check(item, depth - 1)
    elif isinstance(value, list | tuple):
        for item in value:
            check(item, depth - 1)
    else:
        raise RecordError(f"a record cannot hold {type(value).__name__}")


def parse_line(line: bytes) -> dict[str, object]:
    """The record of one line without its newline. Raises RecordError; the hash is not compared."""
    try:
        record = json.loads(line.decode("utf-8"), object_pairs_hook=_object, parse_float=_refuse, parse_constant=_refuse)
    except RecordError:
        raise
    except (ValueError, RecursionError):
        raise RecordError("it is not JSON") from None
    if not isinstance(record, dict):
        raise RecordError("it is not a JSON object")
    check(record)
    missing = [name for name in MEMBERS if name not in record]
    if missing:
        raise RecordError(f"it has no {missing[0]}")
    if type(record["v"]) is not int or record["v"] != VERSION:
        raise RecordError(f"its version is not {VERSION}")
    texts = all(isinstance(record[name], str) for name in ("prev", "hash", "ts", "plane", "event", "id"))
    if not texts or type(record["seq"]) is not int or not _HASH.fullmatch(str(record["hash"])) or not _HASH.fullmatch(str(record["prev"])):
        raise RecordError("seq, prev, hash, ts, plane, event or id is of another type")
    return record


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise RecordError("a name is there twice")
    return found


def _refuse(_: str) -> object:
    raise RecordError("a number has a fraction")


def checkpoint_message(seq: int, head: str, reason: str) -> bytes:
    """What a checkpoint's signature covers: `head` is the hash of the record before the checkpoint, `seq` the checkpoint's own number.

    `reason` is covered so that a log that was cut behind a checkpoint cannot be given out as one that was closed.
    """
    return f"robin audit checkpoint v1\n{seq}\n{head}\n{reason}\n".encode()


def key_id_of(public_key: bytes) -> str:
    """The name of an Ed25519 key: the first 16 hexadecimal digits of the SHA-256 of its 32 octets."""
    return hashlib.sha256(public_key).hexdigest()[:16]

"""The form of the audit chain, which all planes share: what a record's hash and a checkpoint's signature cover, and how a line is read.

A line is one JSON object of printable ASCII: `v seq prev hash ts plane event id` and the fields of the event. `hash` is the SHA-256, in
hexadecimal digits, of the RFC 8785 form of the record without `hash`; `prev` is the hash of the record before it, for the first record 64
zeros. Records hold text, whole numbers, bool, None, lists and objects: no fractions, so that the canonical form needs no rule for them.
"""

import base64
import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from json.encoder import encode_basestring, encode_basestring_ascii
from operator import itemgetter
from typing import Final, Protocol

VERSION: Final = 1
ZEROS: Final = "0" * 64
LINE_BYTES: Final = 64 * 1024
"""The longest line, with its newline. A longer record is refused by the writer, a longer line by every reader."""

ENVELOPE_BYTES: Final = 1024
"""More than the members before an event's own take in a line."""

DEPTH_MAX: Final = 8
MENDED_MAX: Final = 256
MENDED_ITEMS_MAX: Final = 16
"""What `mend` leaves of a text, in characters, and of a list."""

MEMBERS: Final = ("v", "seq", "prev", "hash", "ts", "plane", "event", "id")
"""What every record has, in this order; the fields of an event have other names."""

_INTEGER_MAX: Final = 2**53 - 1  # RFC 8785 takes the numbers of ECMAScript: beyond this they are not exact
_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,63}")
_NOT_PRINTABLE: Final = re.compile(r"[^ -~\n]")
_HASH: Final = re.compile(r"[0-9a-f]{64}")

_CANONICAL: Final = json.JSONEncoder(
    ensure_ascii=False, sort_keys=True, separators=(",", ":")
)  # made once: json.dumps makes one for each call
_LINE: Final = json.JSONEncoder(separators=(",", ":"))


class CheckpointKey(Protocol):
    """An Ed25519 private key."""

    def sign(self, data: bytes) -> bytes:
        """The 64 octets of the signature."""
        ...


class RecordError(ValueError):
    """A record or a line does not have the form of the chain."""


def canonical(record: Mapping[str, object]) -> bytes:
    """The RFC 8785 form of a record that passed `check`: names are ASCII, so that the order by code point is that of UTF-16."""
    return _CANONICAL.encode(record).encode()


def hash_of(record: Mapping[str, object]) -> str:
    """The hash of a record that does not have one yet, or whose `hash` is left out of account."""
    return hashlib.sha256(canonical({name: value for name, value in record.items() if name != "hash"})).hexdigest()


def render_line(record: Mapping[str, object]) -> bytes:
    """The line of a record, with its newline."""
    return _LINE.encode(record).encode() + b"\n"


class Draft:
    """A record before it has its place in the chain, rendered once: its canonical text around `prev` and `seq`, and the rest of its line.

    The canonical text is `before PREV between SEQ after`; `tail` is the line behind `hash`, in ASCII, with its newline. `ts` is that of the
    record.
    """

    __slots__ = ("after", "before", "between", "tail", "ts")

    def __init__(self, ts: str, before: str, between: str, after: str, tail: str) -> None:
        """`tail` as in the canonical form. Raises RecordError."""
        self.ts = ts
        self.before = before
        self.between = between
        self.after = after
        self.tail = tail if tail.isascii() and "\x7f" not in tail else _NOT_PRINTABLE.sub(_escape, tail)
        if len(self.tail) + ENVELOPE_BYTES > LINE_BYTES:
            raise RecordError("it is too large")


class Layout:
    """The text of records that differ in some members only. It makes their drafts, in a few joins of what stands between those members."""

    __slots__ = ("_after", "_before", "_between", "_in_after", "_in_before", "_in_tail", "_tail")

    def __init__(self, texts: Mapping[str, str], varying: Sequence[str]) -> None:
        """`texts`: as for `lay_out`, where those of `varying` are not read. None of these sorts between `prev` and `seq`."""
        marked = {name: f"\1{varying.index(name)}\1" if name in varying else text for name, text in texts.items()}
        before, self._between, after, tail = lay_out(marked)
        self._before, self._in_before = _gaps(before)
        self._after, self._in_after = _gaps(after)
        self._tail, self._in_tail = _gaps(tail)

    def draft(self, ts: str, values: Sequence[str]) -> Draft:
        """`values` are the canonical texts of the varying members, in their order. Raises RecordError if it is too large."""
        before, after, tail = self._before.copy(), self._after.copy(), self._tail.copy()
        before[1::2] = self._in_before(values)
        after[1::2] = self._in_after(values)
        tail[1::2] = self._in_tail(values)
        return Draft(ts, "".join(before), self._between, "".join(after), "".join(tail))

    def tail(self, values: Sequence[str]) -> str:
        """The members of the line behind `hash`, and its end, of a record of any size."""
        tail = self._tail.copy()
        tail[1::2] = self._in_tail(values)
        return "".join(tail)


def _gaps(marked: str) -> tuple[list[str], Callable[[Sequence[str]], Sequence[str]]]:
    """The pieces of a text with a gap at each odd place, and what picks the values for the gaps."""
    pieces = marked.split("\1")
    places = [int(place) for place in pieces[1::2]]
    return pieces, itemgetter(*places) if len(places) > 1 else itemgetter(slice(places[0], places[0] + 1) if places else slice(0))


def render_value(value: object) -> str:
    """The canonical text of a value that passed `check`."""
    if type(value) is str:
        return quote(value)
    if value is None:
        return "null"
    return _CANONICAL.encode(value)


def render_mended(value: object) -> str:
    """The same for any value of texts, numbers, lists and dicts; one that no record can hold is mended. Raises RecordError for others."""
    try:
        check(value)
    except RecordError:
        value = mend(value)
        check(value)
    return render_value(value)


def quote(text: str) -> str:
    """The canonical text of a text; what cannot be written, half of a surrogate pair, as `\\ud800` is written in Python."""
    if not text.isascii():
        text = text.encode("utf-8", "backslashreplace").decode()
    return encode_basestring(text)


def lay_out(texts: Mapping[str, str]) -> tuple[str, str, str, str]:
    """The four texts of a Draft, from the canonical texts of `ts plane event id` and the event's fields, in this order."""
    members = sorted([*texts.items(), ("v", str(VERSION))])
    before = "".join([f'"{name}":{text},' for name, text in members if name < "prev"])
    between = "".join([f'"{name}":{text},' for name, text in members if "prev" < name < "seq"])
    after = "".join([f',"{name}":{text}' for name, text in members if name > "seq"])
    tail = ",".join([f'"{name}":{text}' for name, text in texts.items()])
    return f'{{{before}"prev":"', f'",{between}"seq":', f"{after}}}", f"{tail}}}\n"


def draft_of(members: Mapping[str, object]) -> Draft:
    """The draft of `ts plane event id` and the fields of an event, which passed `check`. Raises RecordError if it is too large."""
    return Draft(str(members["ts"]), *lay_out({name: render_value(value) for name, value in members.items()}))


def mend(value: object) -> object:
    """The same with texts that a record can hold: half of a surrogate pair as `\\ud800`, and not more of each than MENDED_MAX."""
    if isinstance(value, str):
        return value[:MENDED_MAX].encode("utf-8", "backslashreplace").decode()
    if isinstance(value, Mapping):
        return {name: mend(item) for name, item in list(value.items())[:MENDED_MAX]}
    if isinstance(value, list | tuple):
        return [mend(item) for item in value[:MENDED_ITEMS_MAX]]
    return value


def chain_lines(drafts: Sequence[Draft], seq: int, head: str) -> tuple[list[bytes], list[str]]:
    """The lines of records that follow the record `seq` with the hash `head`, and the hash of each."""
    lines: list[bytes] = []
    hashes: list[str] = []
    for draft in drafts:
        seq += 1
        prev, head = head, hashlib.sha256(f"{draft.before}{head}{draft.between}{seq}{draft.after}".encode()).hexdigest()
        hashes.append(head)
        lines.append(f'{{"v":{VERSION},"seq":{seq},"prev":"{prev}","hash":"{head}",{draft.tail}'.encode("ascii"))
    return lines, hashes


def _escape(found: re.Match[str]) -> str:
    """`\\uXXXX`, or two of them: what is not printable ASCII stands within texts alone."""
    return encode_basestring_ascii(found[0])[1:-1]


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
            if not _is_name(name):
                raise RecordError("a name is not an ASCII identifier")
            if item is None or item is True or item is False or (type(item) is str and item.isascii()):
                continue  # nearly all that records hold, beside small numbers; the call below is for the rest
            if type(item) is int and -_INTEGER_MAX <= item <= _INTEGER_MAX:
                continue
            check(item, depth - 1)
    elif isinstance(value, list | tuple):
        for item in value:
            check(item, depth - 1)
    else:
        raise RecordError(f"a record cannot hold {type(value).__name__}")


@lru_cache(1024)
def _is_name(name: object) -> bool:
    """Records of one kind have the same names again and again."""
    return isinstance(name, str) and _NAME.fullmatch(name) is not None


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


def checkpoint_fields(seq: int, head: str, reason: str, key: tuple[CheckpointKey, str] | None) -> dict[str, object]:
    """The fields of the checkpoint with this number. `key`: an Ed25519 key that signs it, and its key_id; None: it is not signed."""
    key_id = sig = None
    if key is not None:
        signer, key_id = key
        sig = base64.b64encode(signer.sign(checkpoint_message(seq, head, reason))).decode()
    return {"reason": reason, "head": head, "key_id": key_id, "sig": sig}


def key_id_of(public_key: bytes) -> str:
    """The name of an Ed25519 key: the first 16 hexadecimal digits of the SHA-256 of its 32 octets."""
    return hashlib.sha256(public_key).hexdigest()[:16]

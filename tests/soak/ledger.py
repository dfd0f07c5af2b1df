"""What each party saw, in small fixed rows on disk: the callers' results and the upstream's deliveries; the judge compares them.

The upstream writes a row before it goes on, so that a row outlives a SIGKILL; the callers, who are never killed, gather theirs.
"""

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

from robin.model.faults import FAULTS

CODES = ("", *sorted(FAULTS))
"""Robin's public codes; a row holds the index."""

_RESULT = struct.Struct("<IBBHHHBIf")
_DELIVERY = struct.Struct("<IBB")
_GATHERED_BYTES = 64 * 1024


class Result(IntEnum):
    """How an exchange ended for its caller."""

    RIGHT = 0  # the whole and right answer, from the upstream
    REFUSED = 1  # a whole and right refusal by Robin
    CUT = 2  # an answer began and visibly broke off
    UNANSWERED = 3  # the connection ended without a byte of an answer
    SHUT = 4  # no connection to Robin
    LEFT = 5  # the caller left, as its kind does
    GOODBYE = 6  # a WebSocket was told to go away (1001)
    SHORT = 7  # an answer framed by the end of its connection ended early, as if it were whole
    WRONG = 8  # whatever must never be seen
    HUNG = 9  # no end within all patience


class Seen(IntEnum):
    """What the upstream saw of a request."""

    BEGAN = 1  # its head
    WHOLE = 2  # all of it, and right


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One exchange as its caller saw it; `began` and `ended` are numbers of phases, `octets` are body bytes that came."""

    number: int
    kind: int
    result: Result
    began: int
    ended: int
    status: int
    code: str
    octets: int
    took_s: float


class ResultLedger:
    """The callers' rows; `close` writes the last of them."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb", buffering=_GATHERED_BYTES)

    def note(self, row: Row) -> None:
        """Add one."""
        code = CODES.index(row.code) if row.code in CODES else 0
        self._file.write(
            _RESULT.pack(row.number, row.kind, row.result, row.began, row.ended, row.status, code, row.octets, min(row.took_s, 1e6))
        )

    def close(self) -> None:
        """Write what is left."""
        self._file.close()


def results(path: Path) -> Iterator[Row]:
    """Every row of the callers, in the order in which exchanges ended."""
    for number, kind, result, began, ended, status, code, octets, took_s in _RESULT.iter_unpack(path.read_bytes()):
        yield Row(
            number=number,
            kind=kind,
            result=Result(result),
            began=began,
            ended=ended,
            status=status,
            code=CODES[code],
            octets=octets,
            took_s=took_s,
        )


class DeliveryLedger:
    """The upstream's rows; each is with the kernel before `note` returns."""

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)

    def note(self, number: int, kind: int, seen: Seen) -> None:
        """Add one."""
        os.write(self._descriptor, _DELIVERY.pack(number, kind, seen))


def deliveries(path: Path) -> Iterator[tuple[int, int, Seen]]:
    """(number, kind, seen) of every row of the upstream, through all its restarts."""
    for number, kind, seen in _DELIVERY.iter_unpack(path.read_bytes()):
        yield number, kind, Seen(seen)

"""Verification of an audit chain over its files, which may be those of an attacker: line by line, with a bounded length.

Rules: nothing that a file holds raises, grows memory or is trusted before its hash was compared. The first break ends the verification.
"""

import base64
import binascii
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import BinaryIO, Final

from robin.telemetry.audit_chain import LINE_BYTES, ZEROS, RecordError, checkpoint_message, hash_of, parse_line

_SEALING: Final = frozenset({"close", "rotate"})

VerifySignature = Callable[[bytes, bytes], bool]
"""(signature, message) -> whether the key made it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Break:
    """The first line that does not fit: `line` counts from 1, and is 0 for what concerns the file; `seq` is that of the last good record.

    `reason`: empty, torn, too_long, malformed, hash, deleted, duplicate, reordered, prev, checkpoint, signature, unsigned, unsealed.
    """

    file: str
    line: int
    seq: int
    reason: str
    text: str


@dataclass(slots=True)
class Chain:
    """What was verified so far. `sealed_seq`: the last checkpoint's number (signed, where keys are given)."""

    records: int = 0
    first_seq: int = 0
    seq: int = 0
    head: str = ZEROS
    checkpoints: int = 0
    sealed_seq: int = 0
    every: int = 0
    interrupted: int = 0  # how often a process went on with a log that was not closed
    interrupted_seq: int = 0  # the first record of the last such process
    closed: bool = False  # the last record is a checkpoint that closed the log
    ended: bool = False  # the last record is a checkpoint that closed or rotated the log

    @property
    def unsealed(self) -> int:
        """How many records no checkpoint covers. They may have been changed, and others cut off, by an attacker who can write the file."""
        return self.seq - self.sealed_seq if self.records else 0


def read_lines(stream: BinaryIO) -> Iterator[bytes]:
    """The lines of a file with their newline; one that is longer than LINE_BYTES, or has no newline, ends the reading."""
    while line := stream.readline(LINE_BYTES):
        yield line
        if not line.endswith(b"\n"):
            return


def verify(files: Sequence[tuple[str, BinaryIO]], keys: Mapping[str, VerifySignature]) -> tuple[Chain, Break | None]:
    """Verify files in their order, oldest first. With `keys` (by key_id) every checkpoint must be signed by one of them."""
    chain = Chain()
    for name, stream in files:
        number = 0
        for number, line in enumerate(read_lines(stream), 1):
            if (found := _verify_line(chain, line, keys, opens=number == 1)) is not None:
                return chain, Break(file=name, line=number, seq=chain.seq, reason=found[0], text=found[1])
        if not number:
            return chain, Break(file=name, line=0, seq=chain.seq, reason="empty", text="the file is empty; a log begins with audit.open")
    if keys and not chain.checkpoints:
        text = "no checkpoint is signed with a key that was given: the hashes alone do not show who wrote the records"
        return chain, Break(file=files[-1][0], line=0, seq=chain.seq, reason="unsigned", text=text)
    return chain, None


def _verify_line(chain: Chain, line: bytes, keys: Mapping[str, VerifySignature], *, opens: bool) -> tuple[str, str] | None:
    """Verify the next line and advance the chain by it, or return the reason and the text of the break."""
    if not line.endswith(b"\n"):
        if len(line) >= LINE_BYTES:
            return "too_long", f"the line is longer than {LINE_BYTES} bytes"
        return "torn", "the last line has no end: the process was killed while it wrote, or bytes were cut off"
    try:
        record = parse_line(line[:-1])
    except RecordError as error:
        return "malformed", f"this is not a record: {error}"
    if record["hash"] != hash_of(record):
        return "hash", "the record does not match its hash: it was changed"
    seq, event = int(str(record["seq"])), record["event"]
    if (found := _check_order(chain, record, seq, opens=opens)) is not None:
        return found
    if event == "audit.checkpoint" and (found := _check_checkpoint(record, seq, keys)) is not None:
        return found
    if not chain.records:
        chain.first_seq, chain.sealed_seq = seq, seq - 1
    if event == "audit.open" and chain.records and not chain.ended:
        chain.interrupted += 1
        chain.interrupted_seq = seq
    if event == "audit.open" and type(record.get("checkpoint_every")) is int:
        chain.every = int(str(record["checkpoint_every"]))
    if event == "audit.checkpoint":
        chain.checkpoints += 1
        chain.sealed_seq = seq
    elif chain.every and seq - chain.sealed_seq > chain.every + 2:  # audit.open and audit.lost may come between
        return "unsealed", f"a checkpoint is missing: there is one after each {chain.every} records"
    chain.closed = event == "audit.checkpoint" and record.get("reason") == "close"
    chain.ended = event == "audit.checkpoint" and record.get("reason") in _SEALING
    chain.records += 1
    chain.seq, chain.head = seq, str(record["hash"])
    return None


def _check_order(chain: Chain, record: Mapping[str, object], seq: int, *, opens: bool) -> tuple[str, str] | None:
    prev = record["prev"]
    if opens and record["event"] != "audit.open":
        return "deleted", "the file does not begin with audit.open: its first records were removed"
    if not chain.records:
        if (seq == 1) != (prev == ZEROS) or seq < 1:
            return "prev", "the first record's seq and prev contradict each other"
        return None
    if chain.closed and seq == chain.seq + 1 and record["event"] != "audit.open":
        return "deleted", "the log was closed before this record, and the audit.open of the next process is not here"
    if seq == chain.seq and record["hash"] == chain.head:
        return "duplicate", "the record before it is there twice"
    if seq > chain.seq + 1:
        return "deleted", f"records {chain.seq + 1} to {seq - 1} are not here: they were removed or moved"
    if seq <= chain.seq:
        return "reordered", f"record {seq} comes after record {chain.seq}: records were moved, repeated or put in from another log"
    if prev != chain.head:
        return "prev", "it does not continue the record before it: that one was replaced, or this one is of another log"
    return None


def _check_checkpoint(record: Mapping[str, object], seq: int, keys: Mapping[str, VerifySignature]) -> tuple[str, str] | None:
    head, key_id, sig, why = record.get("head"), record.get("key_id"), record.get("sig"), record.get("reason")
    if head != record["prev"]:
        return "checkpoint", "its head is not the hash of the record before it"
    if not keys:
        return None
    if not isinstance(sig, str) or not isinstance(key_id, str) or not isinstance(why, str):
        return "unsigned", "the checkpoint has no signature"
    key = keys.get(key_id)
    if key is None:
        return "signature", f"it is signed with the key {key_id!a:.40}, which was not given"
    try:
        signature = base64.b64decode(sig, validate=True)
    except (binascii.Error, ValueError):
        return "signature", "its signature is not base64"
    return None if key(signature, checkpoint_message(seq, str(head), why)) else ("signature", "its signature is not of this key")

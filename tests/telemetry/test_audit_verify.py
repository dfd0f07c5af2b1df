"""Attacks on an audit log, each found at its line with its reason; what cannot be told from a crash is reported and not called forged."""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.telemetry.audit_rig import Folder

from robin.cli.commands.audit import load_key
from robin.telemetry.audit_chain import LINE_BYTES, draft_of, hash_of, render_line
from robin.telemetry.audit_verify import Break, Chain, verify

Lines = list[bytes]


def judge(folder: Folder, *files: bytes, signed: bool = True) -> tuple[Chain, Break | None]:
    keys = dict([load_key(str(folder.public))]) if signed else {}
    return verify([(f"file{number}", io.BytesIO(octets)) for number, octets in enumerate(files)], keys)


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


def edited(line: bytes, **what: Any) -> bytes:
    return render_line({**json.loads(line), **what})


def rechained(lines: Lines, at: int, **what: Any) -> Lines:
    """The record at an index changed, and every hash from there on made anew, as one without the key can."""
    prev, made = json.loads(lines[at])["prev"], lines[:at]
    for number, line in enumerate(lines[at:]):
        record = {**json.loads(line), **(what if number == 0 else {}), "prev": prev}
        if record["event"] == "audit.checkpoint":
            record["head"] = prev
        prev = record["hash"] = hash_of(record)
        made.append(render_line(record))
    return made


def unsigned(lines: Lines) -> Lines:
    """The same records, with checkpoints that nobody signed and hashes that fit."""
    made: Lines = []
    prev = "0" * 64
    for line in lines:
        record = {**json.loads(line), "prev": prev}
        if record["event"] == "audit.checkpoint":
            record |= {"head": prev, "key_id": None, "sig": None}
        prev = record["hash"] = hash_of(record)
        made.append(render_line(record))
    return made


# The log: 1 audit.open, 2 checkpoint, 3-7 records, 8 checkpoint, 9-13 records, 14 checkpoint, ..., 26 checkpoint, 27 that of the close.
ATTACKS: dict[str, tuple[Callable[[Lines], Lines], int, str]] = {
    "a field is edited": (lambda log: [*log[:4], edited(log[4], n=9), *log[5:]], 5, "hash"),
    "a field is added": (lambda log: [*log[:4], edited(log[4], x=1), *log[5:]], 5, "hash"),
    "the time is edited": (lambda log: [*log[:4], edited(log[4], ts="u"), *log[5:]], 5, "hash"),
    "a hash is made anew": (lambda log: [*log[:4], *rechained(log, 4, n=9)[4:5], *log[5:]], 6, "prev"),
    "all hashes are made anew": (lambda log: rechained(log, 4, n=9), 8, "signature"),
    "all hashes, and no checkpoint is signed": (unsigned, 2, "unsigned"),
    "a checkpoint is taken from elsewhere": (lambda log: rechained(log, 7, sig=json.loads(log[13])["sig"]), 8, "signature"),
    "a checkpoint names another key": (lambda log: rechained(log, 7, key_id="0" * 16), 8, "signature"),
    "a checkpoint's signature is no base64": (lambda log: rechained(log, 7, sig="*"), 8, "signature"),
    "a checkpoint names another head": (lambda log: [*log[:7], forged_head(log[7]), *log[8:]], 8, "checkpoint"),
    "a record is deleted": (lambda log: [*log[:4], *log[5:]], 5, "deleted"),
    "records are deleted": (lambda log: [*log[:4], *log[15:]], 5, "deleted"),
    "the beginning is deleted": (lambda log: log[2:], 1, "deleted"),
    "a checkpoint is deleted": (lambda log: [*log[:7], *log[8:]], 8, "deleted"),
    "two records are swapped": (lambda log: [*log[:4], log[5], log[4], *log[6:]], 5, "deleted"),
    "a record is moved to the end": (lambda log: [*log[:4], *log[5:], log[4]], 5, "deleted"),
    "a record is repeated at once": (lambda log: [*log[:5], log[4], *log[5:]], 6, "duplicate"),
    "a record is repeated later": (lambda log: [*log[:9], log[4], *log[9:]], 10, "reordered"),
    "the log is repeated": (lambda log: [*log, *log], 28, "reordered"),
    "the last line is torn": (lambda log: [*log[:-1], log[-1][:-9]], 27, "torn"),
    "the last newline is cut off": (lambda log: [*log[:-1], log[-1][:-1]], 27, "torn"),
    "a line is torn in the middle": (lambda log: [*log[:4], log[4][:40] + b"\n", *log[5:]], 5, "malformed"),
    "two lines are joined": (lambda log: [*log[:4], log[4][:-1], *log[5:]], 5, "malformed"),
    "an empty line": (lambda log: [*log[:4], b"\n", *log[4:]], 5, "malformed"),
    "NUL bytes in the middle": (lambda log: [*log[:4], b"\x00" * 4096 + log[4], *log[5:]], 5, "malformed"),
    "NUL bytes at the end": (lambda log: [*log, b"\x00" * 4096], 28, "torn"),
    "a line that is too long": (lambda log: [*log[:4], b"x" * LINE_BYTES + b"\n", *log[4:]], 5, "too_long"),
    "nothing is left": (lambda _: [], 0, "empty"),
}


def forged_head(line: bytes) -> bytes:
    record = {**json.loads(line), "head": "1" * 64}
    return render_line({**record, "hash": hash_of(record)})


@pytest.mark.parametrize("attack", ATTACKS)
def test_an_attack_is_found_at_its_line_with_its_reason(folder: Folder, attack: str):
    change, line, reason = ATTACKS[attack]
    _, found = judge(folder, b"".join(change(folder.write(20, every=5))))
    assert found is not None
    assert (found.line, found.reason) == (line, reason)


def test_a_log_as_it_was_written_is_good_with_the_key_and_without(folder: Folder):
    log = b"".join(folder.write(20, every=5))
    for signed in (True, False):
        chain, found = judge(folder, log, signed=signed)
        assert (found, chain.records, chain.checkpoints, chain.unsealed, chain.ended) == (None, 27, 6, 0, True)


def test_a_log_that_was_made_anew_without_the_key_is_good_for_those_who_give_no_key(folder: Folder):
    forged = b"".join(rechained(folder.write(20, every=5), 4, n=9))
    assert judge(folder, forged, signed=False)[1] is None


@pytest.mark.parametrize(("kept", "sealed"), [(13, 8), (12, 8), (14, 14), (26, 26), (3, 2)])
def test_a_cut_behind_a_checkpoint_is_an_unsealed_tail_and_not_called_forged(folder: Folder, kept: int, sealed: int):
    chain, found = judge(folder, b"".join(folder.write(20, every=5)[:kept]))
    assert (found, chain.sealed_seq, chain.unsealed, chain.ended) == (None, sealed, kept - sealed, False)


def test_a_log_that_went_on_after_a_cut_or_a_crash_says_so(folder: Folder):
    folder.log.write_bytes(b"".join(folder.write(20, every=5)[:14]))
    chain, found = judge(folder, b"".join(folder.write(1)))
    assert (found, chain.interrupted, chain.interrupted_seq) == (None, 1, 15)


def test_checkpoints_that_are_missing_from_the_rest_of_a_log_are_found(folder: Folder):
    log = folder.write(20, every=5)
    stripped = [*log[:8], *(line for line in log[8:] if b"audit.checkpoint" not in line)]
    renumbered: Lines = []
    prev = "0" * 64
    for number, line in enumerate(stripped, 1):
        record = {**json.loads(line), "seq": number, "prev": prev}
        prev = record["hash"] = hash_of(record)
        renumbered.append(render_line(record))
    _, found = judge(folder, b"".join(renumbered))
    assert found is not None
    assert (found.line, found.reason) == (16, "unsealed")


def test_the_reason_of_a_checkpoint_is_signed_so_that_a_log_that_was_cut_is_not_taken_for_closed(folder: Folder):
    log = folder.write(20, every=5)
    _, found = judge(folder, b"".join(rechained(log[:14], 13, reason="close")))
    assert found is not None
    assert (found.line, found.reason) == (14, "signature")


def test_a_record_behind_the_close_of_a_log_was_put_in(folder: Folder):
    log = folder.write(1)
    forged = {**json.loads(log[2]), "seq": 5, "prev": json.loads(log[3])["hash"]}
    _, found = judge(folder, b"".join([*log, render_line({**forged, "hash": hash_of(forged)})]))
    assert found is not None
    assert (found.line, found.reason) == (5, "deleted")


def test_two_logs_cannot_be_spliced(folder: Folder, tmp_path: Path):
    (tmp_path / "other").mkdir()
    one, other = folder.write(20, every=5), Folder(tmp_path / "other").write(21, every=4)
    _, inside = judge(folder, b"".join([*one[:10], *other[10:]]))
    _, between = judge(folder, b"".join(one), b"".join(other))
    assert inside is not None
    assert between is not None
    assert (inside.file, inside.line, inside.reason) == ("file0", 11, "prev")
    assert (between.file, between.line, between.reason) == ("file1", 1, "reordered")


def test_the_files_of_a_log_are_one_chain_and_a_missing_one_is_found(folder: Folder):
    file = folder.open_file()
    parts = []
    for number in range(3):
        file.append([draft_of({"ts": "t", "plane": "test", "event": "e", "id": "", "n": number})])
        folder.log.rename(part := folder.log.with_name(f"part{number}"))
        assert file.reopen()
        parts.append(part.read_bytes())
    file.close()
    assert judge(folder, *parts)[1] is None
    later, found = judge(folder, *parts[1:])
    assert (found, later.first_seq) == (None, 5)
    for files, reason in ((parts[::2], "deleted"), (parts[::-1], "reordered"), ([parts[0], b"", parts[1]], "empty")):
        _, found = judge(folder, *files)
        assert found is not None
        assert (found.file, found.reason) == ("file1", reason)


def test_a_line_of_a_hundred_megabytes_is_not_read(folder: Folder):
    with (folder.log).open("wb+") as stream:
        stream.truncate(100 * 2**20)
        _, found = verify([("log", stream)], {})
        assert found is not None
        assert found.reason == "too_long"
        assert stream.tell() <= LINE_BYTES + 1

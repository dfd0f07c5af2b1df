"""Verify an audit log, or show its last records.

An audit log is a chain: each record holds the hash of the one before it, and checkpoints sign the chain with a key. So a record that was
changed, removed, moved or added is found, up to the last checkpoint. For planes that audit; the sidecar writes none.
"""

import argparse
import json
import os
import re
import sys
import time
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack
from typing import BinaryIO, Final

from robin.cli.output import is_of_output
from robin.telemetry.audit_chain import LINE_BYTES, MEMBERS, RecordError, hash_of, key_id_of, parse_line
from robin.telemetry.audit_verify import Break, Chain, VerifySignature, verify

_POLL_S: Final = 0.25
_SHOWN_MAX: Final = 2000
_BARE: Final = re.compile(r"[A-Za-z0-9_.:/@%+,\[\]-]+")

_DEFAULT_PORTS: Final = {"http": ":80", "https": ":443"}

_VERIFY: Final = """\
Verify that an audit log is as it was written: every hash, the order, the checkpoints. Several files are one log, oldest first.

  robin audit verify audit.jsonl.1 audit.jsonl --key checkpoints.pub.pem

Without --key only the hashes are compared: that finds accidents, and changes by people who did not make the hashes anew. With
the public key (openssl pkey -in checkpoints.pem -pubout) it also finds forgeries, up to the last checkpoint. Records behind it
are reported as the unsealed tail: the log is still written, its process was killed, or records were cut off.

Exit codes: 0 as it was written, 1 not (the first line that does not fit is named), 2 usage, or a file that cannot be read."""

_TAIL: Final = """\
Show the last records of an audit log, one line each: time, number, plane, event, id, fields. `!` marks a line whose hash does not match.

  robin audit tail -f audit.jsonl
  robin audit tail --calls audit.jsonl

With --calls only what a gateway was asked for, in short: time, caller, method, target, decision, rule or code, and the credential
that it gets. With -f it goes on as records are written, also in the next file when this one is rotated; Ctrl-C ends it."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Two actions, `verify` and `tail`."""
    tail = "robin audit tail FILE [-n N] [-f] [--json | --calls]"
    parser.usage = f"robin audit verify FILE... [--key PUB.pem] [--sealed] [--json]\n       {tail}"
    actions = parser.add_subparsers(prog="robin audit", dest="action", required=True, metavar="verify | tail")
    form = argparse.RawDescriptionHelpFormatter
    checking = actions.add_parser(
        "verify", help="verify that a log is as it was written", description=_VERIFY, formatter_class=form, allow_abbrev=False
    )
    checking.add_argument("files", nargs="+", metavar="FILE", help="the files of one log, oldest first")
    checking.add_argument("--key", action="append", default=[], metavar="PUB.pem", help="public Ed25519 key of the checkpoints; repeatable")
    checking.add_argument(
        "--sealed", action="store_true", help="fail where records stand behind the last checkpoint, or the log was not closed"
    )
    checking.add_argument("--json", action="store_true", help="write JSON to standard output")
    showing = actions.add_parser("tail", help="show the last records", description=_TAIL, formatter_class=form, allow_abbrev=False)
    showing.add_argument("file", metavar="FILE", help="the log")
    showing.add_argument("-n", type=_count, default=20, metavar="N", dest="lines", help="how many records [20]")
    showing.add_argument("-f", "--follow", action="store_true", help="go on as records are written")
    form_of = showing.add_mutually_exclusive_group()
    form_of.add_argument("--json", action="store_true", help="write one JSON object per record")
    form_of.add_argument("--calls", action="store_true", help="only the decisions of a gateway, in short")


def _count(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,4}", text, re.ASCII):
        raise argparse.ArgumentTypeError("write a number from 0 to 9999")
    return int(text)


def run(args: argparse.Namespace) -> int:
    """0 the log is as it was written (`tail`: always), 1 it is not, 2 a file or key cannot be read."""
    try:
        return _verify(args) if args.action == "verify" else _tail(args)
    except (OSError, ValueError) as error:
        if is_of_output(error):
            raise
        what = f"{error.filename}: {error.strerror}" if isinstance(error, OSError) and error.filename is not None else str(error)
        print(f"robin: {_escaped(what)}; robin audit {args.action} --help shows what is expected", file=sys.stderr)
        return 2


def _verify(args: argparse.Namespace) -> int:
    keys = dict(load_key(path) for path in args.key)
    with ExitStack() as stack:
        files = [(name, stack.enter_context(open(name, "rb"))) for name in args.files]
        chain, found = verify(files, keys)
    if found is None and args.sealed and not chain.ended:
        text = f"unsealed tail after seq {chain.sealed_seq}: the log was not closed, or its end was cut off"
        found = Break(file=args.files[-1], line=0, seq=chain.seq, reason="unsealed", text=text)
    if args.json:
        print(json.dumps(_values(chain, found, keys=sorted(keys)), indent=2))
    elif found is None:
        print(_summary(args.files, chain, signed=bool(keys)))
    if found is not None:
        place = f"{found.file}:{found.line}" if found.line else found.file
        print(f"robin: {_escaped(place)}: {found.reason}: {found.text}; the last good record is {found.seq}", file=sys.stderr)
    return 0 if found is None else 1


def load_key(path: str) -> tuple[str, VerifySignature]:
    """The key_id and the check of a public key. Raises OSError, ValueError."""
    from cryptography.exceptions import InvalidSignature  # noqa: PLC0415 - only --key pays for it
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey  # noqa: PLC0415
    from cryptography.hazmat.primitives.serialization import load_pem_public_key  # noqa: PLC0415

    with open(path, "rb") as stream:
        octets = stream.read(LINE_BYTES)
    try:
        key = load_pem_public_key(octets)
    except ValueError:
        key = None
    if not isinstance(key, Ed25519PublicKey):
        raise ValueError(f"{path}: this is not a PEM file with an Ed25519 public key")  # noqa: TRY004 - the content of a file

    def made_it(signature: bytes, message: bytes) -> bool:
        try:
            key.verify(signature, message)
        except InvalidSignature:
            return False
        return True

    return key_id_of(key.public_bytes_raw()), made_it


def _values(chain: Chain, found: Break | None, *, keys: list[str]) -> dict[str, object]:
    broken = None
    if found is not None:
        broken = {"file": found.file, "line": found.line, "last_good_seq": found.seq, "reason": found.reason, "text": found.text}
    return {
        "ok": found is None,
        "records": chain.records,
        "first_seq": chain.first_seq,
        "last_seq": chain.seq,
        "checkpoints": chain.checkpoints,
        "keys": keys,
        "sealed_seq": chain.sealed_seq,
        "unsealed": chain.unsealed,
        "interrupted": chain.interrupted,
        "closed": chain.ended,
        "break": broken,
    }


def _summary(files: list[str], chain: Chain, *, signed: bool) -> str:
    checked = "signed checkpoints" if signed else "checkpoints, signatures not verified (--key)"
    lines = [f"ok: {len(files)} file{'s' * (len(files) > 1)}, records {chain.first_seq} to {chain.seq}, {chain.checkpoints} {checked}"]
    if chain.first_seq > 1:
        lines.append(f"the log begins before record {chain.first_seq}, in a file that was not given")
    if chain.interrupted:
        times = "once" if chain.interrupted == 1 else f"{chain.interrupted} times, the last time"
        where = f"{times} with record {chain.interrupted_seq}"
        lines.append(f"the log was continued without having been closed, {where}: a crash, or records were cut off")
    if not chain.ended:
        lines.append(f"unsealed tail after seq {chain.sealed_seq}: {chain.unsealed} records")
    return "\n".join(lines)


def _tail(args: argparse.Namespace) -> int:
    show = _as_json if args.json else _as_call if args.calls else _as_text
    stream: BinaryIO = open(args.file, "rb")  # noqa: SIM115 - the file changes as the log is rotated
    try:
        for text in deque(filter(None, map(show, _whole_lines(stream, last=not args.follow))), maxlen=args.lines):
            print(text)
        while args.follow:
            sys.stdout.flush()
            time.sleep(_POLL_S)
            renewed = _renewed(args.file, stream)
            for text in filter(None, map(show, _whole_lines(stream, last=renewed is not None))):
                print(text)
            if renewed is not None:
                stream.close()
                stream = renewed
    finally:
        stream.close()
    return 0


def _whole_lines(stream: BinaryIO, *, last: bool) -> Iterator[bytes]:
    """The lines from here on without their newline; of one that is too long the beginning. `last`: also a line that has no end yet."""
    while line := stream.readline(LINE_BYTES):
        if line.endswith(b"\n"):
            yield line[:-1]
        elif len(line) >= LINE_BYTES:
            while (rest := stream.readline(LINE_BYTES)) and not rest.endswith(b"\n"):
                pass
            yield line
        elif last:
            yield line
        else:
            stream.seek(-len(line), os.SEEK_CUR)
            return


def _renewed(path: str, stream: BinaryIO) -> BinaryIO | None:
    """The file that is at the path now, if it is another one; after a truncation, the same one is read from its beginning."""
    ours = os.fstat(stream.fileno())
    if ours.st_size < stream.tell():
        stream.seek(0)
    try:
        new = open(path, "rb")  # noqa: SIM115 - handed to the caller
    except OSError:
        return None  # between the rename and the new file
    found = os.fstat(new.fileno())
    if (found.st_dev, found.st_ino) == (ours.st_dev, ours.st_ino):
        new.close()
        return None
    return new


def _as_json(line: bytes) -> str:
    try:
        return json.dumps(parse_line(line))
    except RecordError as error:
        return json.dumps({"malformed": str(error), "bytes": len(line)})


def _as_text(line: bytes) -> str:
    try:
        record = parse_line(line)
    except RecordError as error:
        return f"!{'':27} not a record: {error}: {_escaped(line[:200].decode('latin-1'))}"
    mark = " " if record["hash"] == hash_of(record) else "!"
    fields = "".join(f" {name}={_value(value)}" for name, value in record.items() if name not in MEMBERS)
    ts, plane, event, id_ = (_escaped(str(record[name])) for name in ("ts", "plane", "event", "id"))
    return f"{mark}{ts:<24} {record['seq']:>6} {plane:<8} {event:<18} {id_ or '-'}{fields}"[:_SHOWN_MAX]


def _as_call(line: bytes) -> str:
    """One decision of a gateway in short; "" for any other record. `!` marks a line whose hash does not match, or that is no record."""
    try:
        record = parse_line(line)
    except RecordError:
        return _as_text(line)
    if record["event"] != "gateway.decision":
        return "" if record["hash"] == hash_of(record) else _as_text(line)
    caller, scheme, port = record.get("caller"), record.get("scheme") or "-", record.get("port") or "-"
    target = f"{record.get('host') or '-'}:{port}"
    if record.get("op") != "connect":
        target = f"{scheme}://{target.removesuffix(_DEFAULT_PORTS.get(str(scheme), ''))}{record.get('path') or ''}"
    reports = [f"would_deny {record['would_deny']}"] if record.get("would_deny") else []
    refused = [record.get("verdict"), record.get("code"), record.get("why")]
    decision = reports if reports and record.get("verdict") == "permit" else [*refused, *reports]
    grant = record.get("grant")
    grants = grant if isinstance(grant, list) else [grant]
    given = [f"+{one.get('provider')}/{one.get('credential')}" for one in grants if isinstance(one, dict)]
    words = [caller.get("id") if isinstance(caller, dict) else caller, record.get("method"), target, *decision, record.get("rule"), *given]
    mark = " " if record["hash"] == hash_of(record) else "!"
    return f"{mark}{_escaped(str(record['ts']))} {' '.join(_escaped(str(word)) for word in words if word)}"[:_SHOWN_MAX]


def _value(value: object) -> str:
    return value if isinstance(value, str) and _BARE.fullmatch(value) else json.dumps(value, separators=(",", ":"))


def _escaped(text: str) -> str:
    return json.dumps(text)[1:-1]

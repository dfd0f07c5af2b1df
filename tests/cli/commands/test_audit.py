"""`robin audit` beside a log: verify names the first line that does not fit, tail shows anything safely and follows a rotation."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from tests.telemetry.audit_rig import Folder

from robin.cli.main import main
from robin.telemetry.audit_chain import LINE_BYTES, draft_of
from robin.testing.waiting import eventually


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


def test_a_good_log_is_0_and_its_extent_is_printed(folder: Folder, capsys: pytest.CaptureFixture[str]):
    folder.write(20, every=5)
    assert main(["audit", "verify", str(folder.log), "--key", str(folder.public), "--sealed"]) == 0
    assert capsys.readouterr().out == "ok: 1 file, records 1 to 27, 6 signed checkpoints\n"


def test_an_unsealed_tail_is_reported_and_is_1_only_with_sealed(folder: Folder, capsys: pytest.CaptureFixture[str]):
    folder.log.write_bytes(b"".join(folder.write(20, every=5)[:11]))
    assert main(["audit", "verify", str(folder.log)]) == 0
    assert capsys.readouterr().out.splitlines()[1] == "unsealed tail after seq 8: 3 records"
    assert main(["audit", "verify", str(folder.log), "--sealed"]) == 1
    assert "unsealed tail after seq 8" in capsys.readouterr().err


def test_the_first_line_that_does_not_fit_is_named(folder: Folder, capsys: pytest.CaptureFixture[str]):
    lines = folder.write(3)
    folder.log.write_bytes(b"".join(lines).replace(b'"n":1', b'"n":7'))
    assert main(["audit", "verify", str(folder.log)]) == 1
    shown = capsys.readouterr()
    assert (shown.out, shown.err.split(": ", 1)[1]) == (
        "",
        f"{folder.log}:4: hash: the record does not match its hash: it was changed; the last good record is 3\n",
    )
    assert main(["audit", "verify", "--json", str(folder.log)]) == 1
    told = json.loads(capsys.readouterr().out)
    assert (told["ok"], told["break"]["line"], told["break"]["reason"], told["break"]["last_good_seq"]) == (False, 4, "hash", 3)


def test_json_of_a_good_log_says_how_far_it_is_sealed(folder: Folder, capsys: pytest.CaptureFixture[str]):
    folder.write(3)
    assert main(["audit", "verify", "--json", str(folder.log), "--key", str(folder.public)]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["ok"], told["records"], told["sealed_seq"], told["closed"], len(told["keys"]), told["break"]) == (
        True,
        6,
        6,
        True,
        1,
        None,
    )


@pytest.mark.parametrize(
    "words",
    [["verify", "LOG", "--key", "LOG"], ["verify", "LOG", "--key", "PRIVATE"], ["verify", "missing"], ["tail", "missing"], ["tail", "."]],
)
def test_a_file_or_key_that_cannot_be_read_is_2(folder: Folder, words: list[str], capsys: pytest.CaptureFixture[str]):
    folder.write(1)
    assert main(["audit", *({"LOG": str(folder.log), "PRIVATE": str(folder.private)}.get(word, word) for word in words)]) == 2
    assert re.fullmatch(r"robin: .+; robin audit (verify|tail) --help shows what is expected\n", capsys.readouterr().err)


def test_the_name_of_a_file_does_not_control_the_terminal(folder: Folder, capsys: pytest.CaptureFixture[str]):
    hostile = folder.log.with_name("\x1b]0;x\x07.pem")
    hostile.write_bytes(b"")
    for words in (["verify", f"{hostile}.gone"], ["verify", str(hostile), "--key", str(hostile)], ["tail", f"{hostile}.gone"]):
        assert main(["audit", *words]) == 2
        assert capsys.readouterr().err.strip().isprintable()


@pytest.mark.parametrize("words", [[], ["verify"], ["look", "x"], ["tail", "x", "-n", "-1"], ["tail", "x", "-n", "1e9"]])
def test_wrong_usage_is_2(words: list[str]):
    with pytest.raises(SystemExit) as left:
        main(["audit", *words])
    assert left.value.code == 2


def test_tail_shows_the_last_records_one_line_each(folder: Folder, capsys: pytest.CaptureFixture[str]):
    folder.write(3)
    assert main(["audit", "tail", "-n", "2", str(folder.log)]) == 0
    record, checkpoint = capsys.readouterr().out.splitlines()
    assert record.split() == ["t", "5", "test", "request.decided", "id-2", "n=2"]
    assert checkpoint.split()[3:6] == ["audit.checkpoint", "-", "reason=close"]
    assert main(["audit", "tail", "-n", "1", "--json", str(folder.log)]) == 0
    assert json.loads(capsys.readouterr().out)["event"] == "audit.checkpoint"


def test_calls_are_one_short_line_each_with_what_was_decided_or_what_failed(folder: Folder, capsys: pytest.CaptureFixture[str]):
    asked = {"ts": "t", "plane": "gateway", "event": "gateway.decision", "id": "", "caller": {"id": "local"}, "would_deny": ""}
    tunnel = {"op": "connect", "method": "CONNECT", "scheme": "https", "host": "a.test", "port": 443, "path": None}
    request = {"op": "request", "method": "GET", "scheme": "http", "host": "b.test", "port": 80, "path": "/x"}
    grant = {"provider": "demo", "credential": "token"}
    file = folder.open_file()
    records: list[dict[str, object]] = [
        {**tunnel, "verdict": "permit", "code": "", "rule": "r", "grant": None},
        {**tunnel, "verdict": "failed", "code": "dns_failed", "rule": "r", "grant": None},
        {**request, "verdict": "deny", "code": "rule_default", "rule": "", "grant": None},
        {**request, "verdict": "deny", "code": "address_refused", "why": "private", "rule": "r", "grant": None},
        {**request, "verdict": "permit", "code": "", "rule": "", "would_deny": "rule_default", "grant": grant},
    ]
    file.append([draft_of({**asked, **record}) for record in records])
    file.close()
    assert main(["audit", "tail", "--calls", str(folder.log)]) == 0
    assert capsys.readouterr().out.splitlines() == [
        " t local CONNECT a.test:443 permit r",
        " t local CONNECT a.test:443 failed dns_failed r",
        " t local GET http://b.test/x deny rule_default",
        " t local GET http://b.test/x deny address_refused private r",
        " t local GET http://b.test/x would_deny rule_default +demo/token",
    ]


HOSTILE = [
    b"\x1b[2J\x00\xff\x9b\n",
    b"\xf0\x9f",
    b"x" * (2 * LINE_BYTES) + b"\n",
    b"[" * 60_000 + b"\n",
    b'{"v":1,"seq":1,"prev":"'
    + b"0" * 64
    + b'","hash":"'
    + b"f" * 64
    + rb'","ts":"\u001b[31m","plane":"\u0000","event":"\u2028","id":"\u009b"}'
    + b"\n",
]


@pytest.mark.parametrize("octets", HOSTILE)
@pytest.mark.parametrize("form", [[], ["--json"]])
def test_tail_shows_hostile_bytes_as_printable_ascii(folder: Folder, octets: bytes, form: list[str], capsys: pytest.CaptureFixture[str]):
    folder.log.write_bytes(b"".join(folder.write(1)) + octets)
    assert main(["audit", "tail", *form, str(folder.log)]) == 0
    shown = capsys.readouterr().out
    assert re.fullmatch(r"([\x20-\x7e]*\n){5}", shown)
    assert form or shown.splitlines()[-1].startswith("!")


async def test_tail_follows_the_log_into_its_next_file(folder: Folder):
    file = folder.open_file()
    command = [sys.executable, "-m", "robin.cli.main", "audit", "tail", "-f", "-n", "0", str(folder.log)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert process.stdout is not None
    os.set_blocking(process.stdout.fileno(), False)
    seen = bytearray()
    number = 0

    def grown() -> bool:
        """The tail begins to follow at some moment: records are written until one is seen."""
        nonlocal number
        number += 1
        file.append([draft_of({"ts": "t", "plane": "test", "event": "e", "id": "", "n": number})])
        seen.extend(process.stdout.read() or b"" if process.stdout else b"")
        return b"n=" in seen

    try:
        await eventually(grown, every_s=0.05, timeout_s=30, what="a record")
        file.append([draft_of({"ts": "t", "plane": "test", "event": "last.of.the.first", "id": ""})])
        folder.log.rename(folder.log.with_name("audit.jsonl.1"))
        assert file.reopen()
        await eventually(lambda: seen.extend(process.stdout.read() or b"") or b"reason=rotated" in seen, every_s=0.05, what="the next file")
        assert re.search(rb"last\.of\.the\.first.*reason=rotate .*\n.*audit\.open", seen, re.DOTALL)
    finally:
        process.kill()
        process.wait(10)
        process.stdout.close()
        file.close()

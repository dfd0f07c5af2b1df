"""The look at what a test run has written finds each kind of secret, and nothing else."""

import os
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from tests.secrets_seen import SecretsSeen

from robin.testing.certificates import CertificateAuthority
from robin.testing.tokens import make_token

JWT = make_token(expires_at=2_000_000_000).decode()


@pytest.fixture
def folder() -> Iterator[Path]:
    """Not one of pytest's, which the end of the run looks through."""
    with TemporaryDirectory() as name:
        yield Path(name)


@pytest.mark.parametrize("name", ["gateway.log", "audit.jsonl", "audit.jsonl.1", "robin.log"])
def test_a_token_in_a_log_or_an_audit_file_is_found(folder: Path, name: str) -> None:
    (folder / "inner").mkdir()
    (folder / "inner" / name).write_text(f'{{"event": "started"}}\n{{"event": "x", "detail": "got {JWT}"}}\n')
    (folder / "token").write_text(JWT)  # a mounted token is no log
    seen = SecretsSeen()
    seen.look_at_files(folder)
    assert [one.partition(": ")[0] for one in seen.found] == [str(folder / "inner" / name)]


def test_a_core_is_found(folder: Path) -> None:
    (folder / "core.123").write_bytes(b"\x7fELF")
    (folder / "core").write_text("of an apple")
    os.mkfifo(folder / "robin.log")
    seen = SecretsSeen()
    seen.look_at_files(folder)
    assert seen.found == [f"{folder / 'core.123'}: a core"]


def test_a_secret_in_a_line_of_a_process_is_found_except_where_a_person_asked_for_it(certificates: CertificateAuthority) -> None:
    key = certificates.issue("localhost").key_file.read_text().splitlines()[0]
    seen = SecretsSeen()
    for stream, text in (
        ("stderr", f"Traceback: Bearer {JWT}"),
        ("stdout", '{"event": "exchange", "path": "/token-17"}'),
        ("stderr", key),
        ("stdout", JWT),
        ("stdout", '{"event": "started", "token_hash": "sha256:0123456789abcdef"}'),
        ("stderr", "robin: the token of demo/token cannot be read"),
    ):
        seen.look_at_line(stream, text)
    assert len(seen.found) == 3

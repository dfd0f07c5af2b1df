"""Demonstration: what `robin up` shows comes as values; tests/journeys/test_up.py shows the rest."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.testing.asking import ask

from robin.testing.demo_broker import JudgedRequest
from robin.testing.demonstration import DemoEvent, Demonstration, LogLine, SidecarResponse, TokenIssued
from robin.testing.waiting import eventually


@pytest.fixture
def folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The place for temporary folders; short, since a socket goes there."""
    with tempfile.TemporaryDirectory(prefix="up") as made:
        monkeypatch.setattr(tempfile, "tempdir", made)
        yield Path(made)


def port_of(demonstration: Demonstration) -> int:
    return int(demonstration.sidecar.url.rpartition(":")[2])


@pytest.mark.parametrize(
    ("source", "subject"), [("file", "system:serviceaccount:demo:agent"), ("jwtsvid", "spiffe://robin.test/ns/demo/sa/agent")]
)
async def test_what_happens_is_told(folder, source, subject):
    heard: list[DemoEvent] = []
    async with Demonstration(on_event=heard.append, source=source, port=0) as demonstration:
        assert (await ask(port_of(demonstration), "/one", ("Host", "127.0.0.1")))[0] == 400  # two Host fields
        assert (await ask(port_of(demonstration), "/two"))[0] == 421
        status, _, body = await ask_properly(demonstration, "/three")
        assert (status, subject.encode() in body) == (200, True)
        await eventually(lambda: len(heard) == 4)
    rotated = heard[0]
    assert isinstance(rotated, TokenIssued)
    assert rotated.number == 1
    (judged,) = (one for one in heard if isinstance(one, JudgedRequest))
    assert (judged.target, judged.reason, judged.fingerprint) == ("/three", None, rotated.fingerprint)
    answered = [one for one in heard if isinstance(one, SidecarResponse)]
    assert [(one.status, one.outcome) for one in answered] == [(400, "bad_request"), (421, "host_not_allowed")]
    assert answered[1].path == "/two"
    assert list(folder.iterdir()) == []


async def ask_properly(demonstration: Demonstration, target: str) -> tuple[int, dict[str, str], bytes]:
    """With the Host that the guards want: the target in absolute form replaces it."""
    return await ask(port_of(demonstration), f"http://127.0.0.1{target}")


async def test_it_ends_when_the_identity_cannot_be_rotated_and_says_so(folder):
    heard: list[DemoEvent] = []
    async with Demonstration(on_event=heard.append, port=0, rotate_s=0.05) as demonstration:
        shutil.rmtree(demonstration.folder / "tokens")
        assert await demonstration.ended() == "the identity could not be rotated"
    assert any(isinstance(one, LogLine) and one.level == "error" for one in heard)
    assert list(folder.iterdir()) == []

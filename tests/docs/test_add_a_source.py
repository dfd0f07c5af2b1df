"""The page that says how to add a source is followed to the letter: its source conforms, and its catalog line keeps a token."""

import sys
import types
from pathlib import Path
from typing import Any

import pytest
from tests.docs.pages import DOCS, blocks_of
from tests.identity.parts import Parts

from robin.identity import catalog
from robin.testing.tokens import make_token
from robin.testing.waiting import eventually
from robin.transport.clock import SystemClock

PAGE = DOCS / "how-to" / "add-an-identity-source.md"
SOURCE, CATALOG, CONFORMANCE = (block.text for block in blocks_of("python") if block.page == PAGE)


@pytest.fixture(autouse=True)
def _source(monkeypatch: pytest.MonkeyPatch) -> None:
    """The page's file, in its place."""
    module = types.ModuleType("robin.identity.sources.newest")
    exec(compile(SOURCE, str(PAGE), "exec"), module.__dict__)
    monkeypatch.setitem(sys.modules, module.__name__, module)


async def test_the_source_of_the_page_passes_the_suite_as_the_page_runs_it(tmp_path: Path) -> None:
    names: dict[str, object] = {}
    exec(compile(CONFORMANCE, str(PAGE), "exec"), names)
    await names["test_the_newest_source_conforms"](tmp_path)  # type: ignore[operator]


async def test_the_catalog_line_of_the_page_opens_the_source_and_keeps_a_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalog, "SOURCES", dict(catalog.SOURCES))
    names: dict[str, Any] = {"__name__": __name__}
    exec(compile(CATALOG, str(PAGE), "exec"), names)
    parts = Parts(clock=SystemClock(), source="newest")
    (tmp_path / "token").write_bytes(make_token(expires_at=parts.clock.wall() + 300))
    settings = names["NewestSettings"](folder=str(tmp_path), audience="broker.example", refresh_before_s=60, fetch_timeout_s=10, wait_s=2)
    opened = catalog.open_source(settings)
    assert (await opened.source.fetch("broker.test")).text.reveal() == (tmp_path / "token").read_bytes()
    opened.close()
    identity = catalog.build_identity(settings, parts.dependencies, parts.metrics)
    await identity.start()
    try:
        await eventually(lambda: identity.status().usable, what="a usable token")
        token = identity.ready()
        assert token is not None
        assert token.subject == "spiffe://example.org/app"
    finally:
        await identity.close()
    assert parts.crashes == []

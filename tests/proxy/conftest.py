"""Every test of this folder runs on uvloop, as the program does."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path

import pytest
import uvloop
from tests.proxy.rig import Room, open_room

from robin.testing.recording_upstream import RecordingUpstream


def pytest_asyncio_loop_factories() -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """One loop: what asyncio's own does differently is the business of tests/transport."""
    return {"uvloop": uvloop.new_event_loop}


@pytest.fixture
async def upstream() -> AsyncIterator[RecordingUpstream]:
    """A scriptable origin; it answers each request with an empty 200 unless told otherwise."""
    async with RecordingUpstream() as origin:
        yield origin


@pytest.fixture
async def room(upstream: RecordingUpstream, tmp_path: Path) -> AsyncIterator[Room]:
    """A engine whose one origin is `upstream`."""
    async with open_room(upstream.port, tmp_path) as opened:
        yield opened

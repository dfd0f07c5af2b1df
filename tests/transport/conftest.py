"""Every test of this folder runs on both event loops, but those that bring their own."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping

import pytest
import uvloop


def pytest_asyncio_loop_factories(item: pytest.Item) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """uvloop is what the program runs on; asyncio's own is the second opinion."""
    if item.path.name == "test_control.py":
        return {"asyncio": asyncio.new_event_loop}
    if item.path.name == "test_held.py":  # how much one read brings is the loop's own
        return {"uvloop": uvloop.new_event_loop}
    return {"uvloop": uvloop.new_event_loop, "asyncio": asyncio.new_event_loop}


@pytest.fixture(autouse=True)
async def settled() -> AsyncIterator[None]:
    """uvloop complains of transports that were closed in the very turn in which it ends."""
    yield
    for _ in range(5):
        await asyncio.sleep(0)

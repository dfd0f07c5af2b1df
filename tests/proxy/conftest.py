"""Every test of this folder runs on uvloop, as the program does."""

import asyncio
from collections.abc import Callable, Mapping

import uvloop


def pytest_asyncio_loop_factories() -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """One loop: what asyncio's own does differently is the business of tests/transport."""
    return {"uvloop": uvloop.new_event_loop}

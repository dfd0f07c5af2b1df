"""One running Robin per module for the conformance tests; those that need other settings start their own."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from tests.corpus.rig import Rig, running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def rig(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Rig]:
    """The real process with default settings, upstream at base `/`."""
    async with running(tmp_path_factory.mktemp("plain")) as rig:
        yield rig


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def based(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Rig]:
    """The same with an upstream at base `/b`."""
    async with running(tmp_path_factory.mktemp("based"), base="/b") as rig:
        yield rig

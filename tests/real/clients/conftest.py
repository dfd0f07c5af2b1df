"""A real sidecar in front of a guarded upstream, and a token that can be rotated while a client is at work."""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from functools import partial
from pathlib import Path

import pytest
from tests.real.clients.stand import Stand, stand

from robin.testing.certificates import CertificateAuthority

Stands = Callable[..., AbstractAsyncContextManager[Stand]]


@pytest.fixture
def stand_of(tmp_path: Path, certificates: CertificateAuthority) -> Stands:
    """`async with stand_of(route, ROBIN_X=...) as stand:`."""
    return partial(stand, tmp_path, certificates)

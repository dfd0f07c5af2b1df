"""Commands as people run them: whole processes, with only the environment that a test gives them."""

import base64
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from robin.testing.authority import IdentityAuthority
from robin.testing.process import RobinProcess


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str


RunRobin = Callable[..., Awaitable[Ended]]


@pytest.fixture
def run_robin() -> RunRobin:
    """`await run_robin("check", "--json", ROBIN_AUDIENCE="x")`: runs it to its end."""

    async def run(*words: str, timeout_s: float = 30.0, program: tuple[str, ...] | None = None, **settings: str) -> Ended:
        started = {} if program is None else {"program": program}
        async with RobinProcess(*words, settings=settings, **started) as robin:
            code = await robin.returned(timeout_s=timeout_s)
            return Ended(code=code, out="\n".join(robin.stdout), err="\n".join(robin.stderr))

    return run


@pytest.fixture(scope="session")
def authority() -> IdentityAuthority:
    """Signs the tokens of the tests."""
    return IdentityAuthority()


@pytest.fixture
def token_file(tmp_path: Path, authority: IdentityAuthority) -> Path:
    """A good token for the audience `broker.test`, readable by its owner alone."""
    path = tmp_path / "token"
    path.touch(mode=0o600)
    path.write_bytes(authority.service_account_token(audience="broker.test", lifetime_s=600) + b"\n")
    return path


@pytest.fixture
def shapes_of() -> Callable[[bytes], list[str]]:
    """Every shape in which a token might leak: whole, each part, hex and base64 of them."""

    def shapes(token: bytes) -> list[str]:
        parts = [token, *token.split(b".")]
        said = [*parts, *(part.hex().encode() for part in parts), *(base64.b64encode(part) for part in parts)]
        return [shape.decode() for shape in said]

    return shapes

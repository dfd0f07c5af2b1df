"""What each client test stands on: identity authority, projected volume, guarded upstream over TLS, and the real sidecar between."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from tests.real.parts.guarded import AUDIENCE, GuardedServer, Route
from tests.real.parts.program import Ended, run
from tests.real.parts.sidecar import RealSidecar

from robin.testing.authority import IdentityAuthority
from robin.testing.certificates import CertificateAuthority
from robin.testing.projected import ProjectedDirectory


@dataclass(frozen=True, slots=True, kw_only=True)
class Stand:
    """`url` is the one thing that a client is told; `home` is its empty home folder."""

    robin: RealSidecar
    server: GuardedServer
    authority: IdentityAuthority
    volume: ProjectedDirectory
    home: Path

    @property
    def url(self) -> str:
        return self.robin.url

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def rotate(self) -> None:
        """A new token in the volume: the next request that Robin forwards carries it."""
        rotate(self.authority, self.volume)

    async def outcomes(self, count: int) -> list[str]:
        """What the first `count` records say, once they are there."""
        return [record["outcome"] for record in await self.robin.recorded(count)]


def rotate(authority: IdentityAuthority, volume: ProjectedDirectory) -> None:
    """Write a fresh token the way the kubelet does."""
    assert volume.write({"token": authority.service_account_token(audience=AUDIENCE)})


def identity(folder: Path) -> tuple[IdentityAuthority, ProjectedDirectory]:
    """An authority and a volume with its first token."""
    authority, volume = IdentityAuthority(), ProjectedDirectory(folder / "tokens")
    rotate(authority, volume)
    return authority, volume


@contextlib.asynccontextmanager
async def stand(folder: Path, certificates: CertificateAuthority, route: Route, **changed: str) -> AsyncIterator[Stand]:
    """All of it running; `changed` are settings. At the end Robin must have logged no error, and end in order."""
    home = folder / "home"
    home.mkdir()
    tls = certificates.issue("localhost").server_context()
    authority, volume = identity(folder)
    async with GuardedServer(authority, route, tls=tls) as server:
        settings = {"ROBIN_UPSTREAM_CA_FILE": str(certificates.ca_file), **changed}
        async with sidecar(server.url_as("localhost"), volume, settings) as robin:
            yield Stand(robin=robin, server=server, authority=authority, volume=volume, home=home)


@contextlib.asynccontextmanager
async def sidecar(upstream_url: str, volume: ProjectedDirectory, changed: dict[str, str]) -> AsyncIterator[RealSidecar]:
    """A started sidecar that must end with 0 and without a line of level error."""
    settings = {"ROBIN_TOKEN_FILE": str(volume.token_file), "ROBIN_AUDIENCE": AUDIENCE, **changed}
    async with RealSidecar(upstream_url=upstream_url, settings=settings) as robin:
        await robin.started()
        yield robin
        assert await robin.stop() == 0
        assert errors(robin.notes) == []
        assert robin.stderr == []


class Paused(Protocol):
    """A route that stops in the middle of a stream, says so, and goes on when it is told."""

    half_way: asyncio.Event
    go_on: asyncio.Event


async def run_while_rotating(stand: Stand, paused: Paused, command: Sequence[str | Path], environment: Mapping[str, str]) -> Ended:
    """Run a client to its end; while its stream is in the middle, the token is rotated under it. Both tokens must have been used."""
    async with asyncio.TaskGroup() as group:
        running = group.create_task(run(command, home=stand.home, environment=environment))
        running.add_done_callback(lambda _: paused.half_way.set())
        await paused.half_way.wait()
        assert len(stand.server.tokens) == 1
        stand.rotate()
        paused.go_on.set()
    assert len(stand.server.tokens) == 2
    return running.result()


def errors(notes: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """The lines that Robin itself calls errors."""
    return [note for note in notes if note["level"] == "error"]

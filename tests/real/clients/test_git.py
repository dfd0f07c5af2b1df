"""git through Robin against git's own http-backend: clone, shallow clone, fetch, small pushes and chunked ones, while the token rotates."""

import hashlib
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.real.clients.stand import identity, rotate, sidecar
from tests.real.parts import debian
from tests.real.parts.githost import GitHost, git_host
from tests.real.parts.guarded import PLACEHOLDER, Exchange, GuardedServer
from tests.real.parts.program import Ended, run
from tests.real.parts.sidecar import RealSidecar

from robin.testing.authority import IdentityAuthority
from robin.testing.projected import ProjectedDirectory

pytestmark = pytest.mark.real

CHUNKED_FROM_BYTES = 1 << 20  # git's http.postBuffer: a larger push is sent chunked


@dataclass(frozen=True, slots=True, kw_only=True)
class Forge:
    """A host with one bare repository `one.git`, reached through Robin only; `judge.seen` has every request that nginx asked about."""

    robin: RealSidecar
    host: GitHost
    judge: GuardedServer
    authority: IdentityAuthority
    volume: ProjectedDirectory
    home: Path

    async def git(self, *arguments: str, folder: str = ".") -> Ended:
        """git as it comes, without anybody's settings."""
        who = {"GIT_AUTHOR_NAME": "a", "GIT_AUTHOR_EMAIL": "a@b", "GIT_COMMITTER_NAME": "a", "GIT_COMMITTER_EMAIL": "a@b"}
        environment = {**who, "GIT_TERMINAL_PROMPT": "0", "GIT_CONFIG_NOSYSTEM": "1"}
        return await run([debian.find("git"), "-C", folder, *arguments], home=self.home, environment=environment)

    @property
    def url(self) -> str:
        """With a placeholder for a password, as a helper script would have it."""
        return self.robin.url.replace("://", f"://x:{PLACEHOLDER}@") + "/one.git"

    async def commit(self, folder: str, name: str, content: bytes) -> str:
        """A commit with one file; its id."""
        (self.home / folder / name).write_bytes(content)
        await self.git("add", name, folder=folder)
        await self.git("commit", "-q", "-m", name, folder=folder)
        return (await self.git("rev-parse", "HEAD", folder=folder)).stdout.decode().strip()


@asynccontextmanager
async def forge(folder: Path) -> AsyncIterator[Forge]:
    authority, volume = identity(folder)
    home = folder / "home"
    home.mkdir()

    async def admit(exchange: Exchange) -> None:
        await exchange.reply(204)

    async with GuardedServer(authority, admit) as judge:
        with git_host(judge.url) as host:
            async with sidecar(host.url, volume, {}) as robin:
                made = Forge(robin=robin, host=host, judge=judge, authority=authority, volume=volume, home=home)
                await made.git("init", "-q", "--bare", "-b", "main", str(host.repositories / "one.git"))
                yield made


async def test_push_clone_shallow_clone_and_fetch(tmp_path: Path) -> None:
    async with forge(tmp_path) as made:
        await made.git("clone", "-q", made.url, "first")
        await made.git("checkout", "-q", "-b", "main", folder="first")
        small = await made.commit("first", "small", b"a few bytes")
        await made.git("push", "-q", "origin", "main", folder="first")
        assert await head(made) == small
        rotate(made.authority, made.volume)
        noise = os.urandom(6 * CHUNKED_FROM_BYTES)
        large = await made.commit("first", "large", noise)
        await made.git("push", "-q", "origin", "main", folder="first")
        assert await head(made) == large
        await made.git("clone", "-q", made.url, "second")
        assert hashlib.sha256((made.home / "second" / "large").read_bytes()).digest() == hashlib.sha256(noise).digest()
        await made.git("clone", "-q", "--depth", "1", made.url, "shallow")
        assert (await made.git("rev-list", "--count", "HEAD", folder="shallow")).stdout == b"1\n"
        last = await made.commit("second", "third", b"more")
        await made.git("push", "-q", folder="second")
        await made.git("fetch", "-q", "--unshallow", folder="shallow")
        assert (await made.git("rev-parse", "origin/main", folder="shallow")).stdout.decode().strip() == last
        assert (await made.git("rev-list", "--count", "origin/main", folder="shallow")).stdout == b"3\n"
        await made.git("fsck", "--strict", folder="shallow")
        assert len(made.judge.tokens) == 2
        assert {record["outcome"] for record in await made.robin.recorded(len(made.judge.seen))} == {"forwarded"}
        sizes = [record["bytes_in"] for record in made.robin.records if record["path"].endswith("git-receive-pack")]
        assert max(sizes) > 6 * CHUNKED_FROM_BYTES


async def head(made: Forge) -> str:
    """What the host itself calls its main branch."""
    return (await made.git("rev-parse", "main", folder=str(made.host.repositories / "one.git"))).stdout.decode().strip()

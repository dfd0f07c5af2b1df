"""uv publishes and pip and uv install through Robin; npm publishes and installs; each with a placeholder for its credential."""

import hashlib
import json
import os
import zipfile
from pathlib import Path

import pytest
from tests.real.clients.conftest import Stands
from tests.real.clients.registries import Registries
from tests.real.clients.stand import Stand
from tests.real.parts import nodeclients, pyclients
from tests.real.parts.guarded import PLACEHOLDER
from tests.real.parts.program import run

pytestmark = pytest.mark.real

NOISE = os.urandom(3 << 20)


def wheel(folder: Path, name: str, *, requires: str = "") -> Path:
    """A wheel with one module and a few megabytes that do not compress."""
    path = folder / f"{name}-1.0-py3-none-any.whl"
    needs = f"Requires-Dist: {requires}\n" if requires else ""
    files = {
        f"{name}/__init__.py": b"word = 'installed'\n",
        f"{name}/noise.bin": NOISE,
        f"{name}-1.0.dist-info/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n{needs}".encode(),
        f"{name}-1.0.dist-info/WHEEL": b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = f"{name}-1.0.dist-info/RECORD"
    lines = [f"{file},," for file in [*files, record]]
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file, content in files.items():
            archive.writestr(file, content)
        archive.writestr(record, "\n".join(lines) + "\n")
    return path


async def publish(stand: Stand) -> None:
    """Both wheels, by uv's own upload."""
    wheels = [wheel(stand.home, "robinleaf"), wheel(stand.home, "robinroot", requires="robinleaf==1.0")]
    where = ["--publish-url", f"{stand.url}/legacy", "--trusted-publishing", "never", "--token", PLACEHOLDER]
    await run([pyclients.find(), "-m", "uv", "-q", "publish", *where, *wheels], home=stand.home)


async def test_pip_installs_what_uv_published(stand_of: Stands) -> None:
    registries = Registries()
    async with stand_of(registries.route) as stand:
        await publish(stand)
        assert sorted(registries.files) == ["robinleaf-1.0-py3-none-any.whl", "robinroot-1.0-py3-none-any.whl"]
        stand.rotate()
        index = stand.url.replace("://", f"://x:{PLACEHOLDER}@") + "/simple/"
        choices = ["--disable-pip-version-check", "--no-cache-dir", "--index-url", index, "--target", "by-pip"]
        await run([pyclients.find(), "-m", "pip", "install", "-q", *choices, "robinroot"], home=stand.home)
        check(stand, "by-pip")
        assert len(stand.server.tokens) == 2
        assert set(await stand.outcomes(len(stand.server.seen))) == {"forwarded"}


async def test_uv_installs_what_uv_published(stand_of: Stands) -> None:
    async with stand_of(Registries().route) as stand:
        await publish(stand)
        choices = ["--no-cache", "--index-url", f"{stand.url}/simple/", "--target", "by-uv", "--python", str(pyclients.find())]
        await run([pyclients.find(), "-m", "uv", "-q", "pip", "install", *choices, "robinroot"], home=stand.home)
        check(stand, "by-uv")


def check(stand: Stand, folder: str) -> None:
    """Both packages are there, whole."""
    for name in ("robinroot", "robinleaf"):
        installed = (stand.home / folder / name / "noise.bin").read_bytes()
        assert hashlib.sha256(installed).digest() == hashlib.sha256(NOISE).digest()


async def test_npm_installs_what_npm_published(stand_of: Stands) -> None:
    async with stand_of(Registries().route) as stand:
        registry = f"{stand.url}/npm/"
        key = f"//127.0.0.1:{stand.port}/npm/:_authToken={PLACEHOLDER}\n"
        (stand.home / ".npmrc").write_text(f"registry={registry}\n{key}update-notifier=false\naudit=false\nfund=false\n")
        for name, needs in (("robin-leaf", {}), ("robin-root", {"robin-leaf": "1.0.0"})):
            package = stand.home / name
            package.mkdir()
            (package / "package.json").write_text(json.dumps({"name": name, "version": "1.0.0", "dependencies": needs}))
            (package / "noise.bin").write_bytes(NOISE)
            await run([nodeclients.npm(), "publish", "--prefix", package, package], home=stand.home)
        stand.rotate()
        project = stand.home / "project"
        project.mkdir()
        (project / "package.json").write_text('{"name": "project", "private": true}')
        await run([nodeclients.npm(), "install", "--prefix", project, "robin-root"], home=stand.home)
        for name in ("robin-root", "robin-leaf"):
            assert hashlib.sha256((project / "node_modules" / name / "noise.bin").read_bytes()).digest() == hashlib.sha256(NOISE).digest()
        await run([nodeclients.npm(), "ci", "--prefix", project], home=stand.home)
        assert len(stand.server.tokens) == 2
        assert "internal_error" not in await stand.outcomes(len(stand.server.seen))

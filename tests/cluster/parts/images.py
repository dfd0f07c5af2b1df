"""The images that pods of the cluster run, as tar files, since there is no registry; made again when something in them changes."""

import re
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from deploy.image import contents, debian, image, oci
from tests.cluster.parts import node_root
from tests.cluster.parts.services import PAUSE_IMAGE
from tests.cluster.parts.system import DNS_IMAGE
from tests.real.parts import cache, gobuild
from tests.real.parts.missing import as_missing
from tests.real.parts.progress import Progress

APP = Path(__file__).resolve().parents[1] / "app"
CLIENTS_LOCK = contents.ROOT / "requirements" / "real.lock"
NOT_CLIENTS = ("pip", "uv")
ROBIN_IMAGE, APP_IMAGE = "registry.example/robin:1", "registry.example/app:1"  # the names in the shipped manifests
WORK_IMAGE = "registry.example/work:1"
NFT_IMAGE = "registry.example/robin-nft:1"
NFT = re.compile(r"nftables$|lib(nftables1|edit2|mnl0|nftnl11|xtables12|jansson4|gmp10|tinfo6|bsd0|md0)$")
APP_USER = 20001
WORK = "#!/bin/sh\nexec curl --silent --fail --output /dev/null http://127.0.0.1:4000/v1/models\n"  # of job-classic.yaml
EPOCH = "1970-01-01T00:00:00Z"


def robin() -> Path:
    """The image that `make image` makes of this tree, as a tar file."""
    source = sorted(path for path in (contents.ROOT / "src" / "robin").rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    tools = sorted(Path(contents.__file__).parent.glob("*.py"))
    others = [contents.ROOT / "pyproject.toml", contents.ROOT / "README.md", contents.RUN_LOCK, contents.LOCK]
    key = cache.digest(part for path in (*source, *tools, *others) for part in (str(path.relative_to(contents.ROOT)), path.read_bytes()))
    return cache.obtain("image", key, _build_robin) / image.ARCHIVE


def with_certificate(source: Path, target: Path, certificate: bytes, *, names: Sequence[str]) -> Path:
    """The image with one more layer, in which a certificate is trusted beside the others: what a site does for its own CA."""
    bundle = "etc/ssl/certs/ca-certificates.crt"
    layers, document = oci.read(source)
    return _add(layers, document["config"], {bundle: oci.file_of(layers, bundle) + certificate}, target, names)


def with_nft(source: Path, target: Path) -> Path:
    """Robin's image with the package nftables, for `robin lockdown`."""
    layers, document = oci.read(source)
    with tempfile.TemporaryDirectory() as made:
        for package in debian.read_lock(node_root.LOCK):
            if NFT.match(package.name):
                debian.unpack(debian.fetch(package, cache.home() / "debian"), Path(made))
        oci.write(target, [*layers, oci.layer(Path(made))], config=document["config"], names=[NFT_IMAGE], created=EPOCH)
    return target


def apps(source: Path) -> list[Path]:
    """Python with clients that were not made for Robin, and a program that uses them, for ever and, for Jobs, for a while.

    `source` is Robin's image, for its Python.
    """
    program = [path.read_bytes() for path in sorted(APP.glob("*.py"))]
    layers, _ = oci.read(source)
    key = cache.digest(
        [CLIENTS_LOCK.read_bytes(), node_root.SHELL_LOCK.read_bytes(), Path(__file__).read_bytes(), layers[0].digest, *program]
    )
    folder = cache.obtain("app-image", key, lambda folder: _build_apps(layers[0], folder))
    return [folder / "app.tar", folder / "work.tar"]


def system() -> list[Path]:
    """The images of the cluster's own pods: each a static program of tests/real/go/cluster and nothing else."""
    programs, names = gobuild.find(gobuild.CLUSTER), {"pause": PAUSE_IMAGE, "coredns": DNS_IMAGE}

    def build(folder: Path) -> None:
        for program, name in names.items():
            _build_program(programs / program, folder / f"{program}.tar", name=name)

    folder = cache.obtain("system-images", cache.digest([programs.name, *names.values()]), build)
    return [folder / f"{program}.tar" for program in names]


def _build_program(program: Path, target: Path, *, name: str) -> None:
    with tempfile.TemporaryDirectory() as made:
        shutil.copy(program, Path(made) / program.name)
        oci.write(target, [oci.layer(Path(made))], config={"Entrypoint": [f"/{program.name}"]}, names=[name], created=EPOCH)


def _add(layers: list[oci.Layer], config: Mapping[str, Any], files: Mapping[str, bytes], target: Path, names: Sequence[str]) -> Path:
    with tempfile.TemporaryDirectory() as made:
        for name, content in files.items():
            path = Path(made) / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        oci.write(target, [*layers, oci.layer(Path(made))], config=config, names=names, created=EPOCH)
    return target


def _build_robin(folder: Path) -> None:
    with Progress("Robin's image"), as_missing("Robin's image", debian.PackageError):
        image.build(folder, names=(image.default_name(), ROBIN_IMAGE))


def _build_apps(python: oci.Layer, folder: Path) -> None:
    title = "the application's image, with clients of requirements/real.lock"
    with Progress(title), as_missing(title, debian.PackageError), tempfile.TemporaryDirectory() as made:
        lock = Path(made) / "clients.lock"
        lock.write_text("".join(_entries(CLIENTS_LOCK.read_text())))
        site = Path(made) / "layer" / "app" / "site"
        contents.install_wheels(site, contents.wheels(lock, image.cache() / "wheels"))
        for path in APP.glob("*.py"):
            shutil.copy(path, site.parent)
        config = {
            "User": f"{APP_USER}:{APP_USER}",
            "Env": ["PATH=/usr/bin", "PYTHONPATH=/app/site", "PYTHONUNBUFFERED=1", "PYTHONDONTWRITEBYTECODE=1"],
            "Entrypoint": ["/usr/bin/python3"],
        }
        layers = [python, oci.layer(Path(made) / "layer")]
        oci.write(folder / "app.tar", layers, config={**config, "Cmd": ["/app/load.py"]}, names=[APP_IMAGE], created=EPOCH)
        shell = Path(made) / "shell"
        for package in debian.read_lock(node_root.SHELL_LOCK):
            debian.unpack(debian.fetch(package, cache.home() / "debian"), shell)
        (shell / "work").write_text(WORK)
        (shell / "work").chmod(0o755)
        work = {**config, "Cmd": ["/app/load.py", "50"]}
        oci.write(folder / "work.tar", [*layers, oci.layer(shell)], config=work, names=[WORK_IMAGE], created=EPOCH)


def _entries(lock: str) -> list[str]:
    """The lock's entries, each with its hashes, without the tools that no program in a pod calls."""
    entries: list[str] = []
    for line in lock.splitlines(keepends=True):
        if line[0].isalnum():
            entries.append(line)
        elif line.startswith(" "):
            entries[-1] += line
    return [entry for entry in entries if entry.partition("==")[0] not in NOT_CLIENTS]

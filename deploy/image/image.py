"""The image and its bill of materials, from the layers' files to two files on disk."""

import datetime
import os
import re
import tempfile
from pathlib import Path
from typing import Any

from deploy.image import contents, oci, sbom

ARCHIVE, BILL = "robin.tar", "robin.spdx.json"
CONFIG: dict[str, Any] = {
    "User": f"{contents.USER}:{contents.USER}",
    "Env": [
        "PATH=/usr/bin",
        "SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt",
        "PYTHONPATH=/robin",
        "PYTHONSAFEPATH=1",
        "PYTHONDONTWRITEBYTECODE=1",
    ],
    "Entrypoint": ["/usr/bin/python3", "-m", "robin.cli.main"],
    "Cmd": ["sidecar"],
    "ExposedPorts": {"4001/tcp": {}},
    "WorkingDir": "/",
}


def version() -> str:
    """Robin's, as pyproject.toml has it."""
    found = re.search(r'^version = "([^"]+)"$', (contents.ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert found is not None
    return found[1]


def default_name() -> str:
    """In full, as containerd's tools need it; for Docker it is robin:VERSION."""
    return f"docker.io/library/robin:{version()}"


def cache() -> Path:
    """Where fetched packages stay."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "robin-image"


def build(output: Path, *, names: tuple[str, ...] = ()) -> oci.Image:
    """Write both files into `output`. SOURCE_DATE_EPOCH is the time in them; without it, 1970."""
    epoch = int(os.environ.get("SOURCE_DATE_EPOCH", "0"))
    created = datetime.datetime.fromtimestamp(epoch, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="robin-image-") as folder:
        made = contents.assemble(Path(folder), cache())
        layers = [oci.layer(one, epoch=epoch) for one in made.layers]
        labels = {f"org.opencontainers.image.{name}": value for name, value in _labels().items()}
        config = {**CONFIG, "Labels": labels}
        built = oci.write(output / ARCHIVE, layers, config=config, names=names or (default_name(),), created=created)
        bill = sbom.document(
            name="robin", version=version(), digest=built.digest, created=created, packages=made.debian, wheels=made.wheels
        )
    sbom.write(output / BILL, bill)
    return built


def _labels() -> dict[str, str]:
    return {"title": "robin", "version": version(), "licenses": "Apache-2.0"}

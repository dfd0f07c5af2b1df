"""The kinds of cert-manager and trust-manager, as upstream defines them: the files deploy/crds of their Go modules."""

import json
import shutil
import subprocess
import tempfile
from pathlib import Path

from tests.real.parts import cache, versions
from tests.real.parts.missing import MissingPart
from tests.real.parts.progress import Progress


def obtain() -> Path:
    """The folder with all of them."""
    return cache.obtain("crds", cache.digest([repr(sorted(versions.CRDS.items()))]), _fetch)


def _fetch(folder: Path) -> None:
    for module, (version, wanted) in versions.CRDS.items():
        with Progress(f"the kinds of {module} {version}"), tempfile.TemporaryDirectory() as empty:
            command = ["go", "mod", "download", "-json", f"{module}@v{version}"]
            try:
                asked = subprocess.run(command, cwd=empty, capture_output=True, text=True, check=False, timeout=300)
            except FileNotFoundError:
                raise MissingPart(name=module, remedy="needs Go to be fetched; put `go` on PATH, then run `make real`") from None
            found = json.loads(asked.stdout or "{}")
            if found.get("Sum") != wanted:
                raise MissingPart(name=module, remedy=f"could not be fetched: {found.get('Error') or found.get('Sum') or asked.stderr}")
            for path in sorted(Path(found["Dir"], "deploy", "crds").glob("*.yaml")):
                shutil.copyfile(path, folder / path.name)

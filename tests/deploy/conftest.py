"""Robin as the Dockerfile's build stage makes it, and the image that `make image` makes, once for all tests here."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from deploy.image import image, oci
from tests.deploy.dockerfile import DOCKERFILE, stages

ROOT = DOCKERFILE.parents[2]


def python_3_11() -> str:
    """An interpreter of the image's version without our packages."""
    for candidate in (str(Path(sys.base_prefix, "bin", "python3.11")), shutil.which("python3.11"), "/usr/bin/python3"):
        if candidate and Path(candidate).exists():
            told = subprocess.run([candidate, "-c", "import sys; print(sys.version_info[:2])"], capture_output=True, text=True, check=False)
            if told.stdout == "(3, 11)\n":
                return candidate
    pytest.skip("NOT TESTED: this needs Python 3.11, as the image has it")


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """The interpreter, and /robin as the build stage makes it: its COPY and RUN lines, in order, with other places for /src and /robin."""
    python, root = python_3_11(), tmp_path_factory.mktemp("image")
    source, target = root / "src", root / "robin"
    (stage, _) = stages(DOCKERFILE.read_text())
    assert stage.one("WORKDIR").rest == "/src"
    for one in stage.instructions:
        if one.word == "COPY":
            *sources, into = one.words
            for name in sources:
                place = source / into if len(sources) == 1 and not into.endswith("/") and into != "." else source / into / name
                place.parent.mkdir(parents=True, exist_ok=True)
                if (ROOT / name).is_dir():
                    shutil.copytree(ROOT / name, place, ignore=shutil.ignore_patterns("__pycache__"))
                else:
                    shutil.copy(ROOT / name, place)
        elif one.word == "RUN":
            command = one.rest.replace("/robin", str(target)).replace("python3 ", f"{python} ")
            ran = subprocess.run(["/bin/sh", "-ec", command], cwd=source, capture_output=True, text=True, check=False, timeout=300)
            assert ran.returncode == 0, f"{command}\n{ran.stdout}{ran.stderr}"
    return python, target


@pytest.fixture(scope="session")
def made_image(tmp_path_factory: pytest.TempPathFactory) -> tuple[oci.Image, Path]:
    """What `make image` says, and the folder with both files."""
    folder = tmp_path_factory.mktemp("made")
    return image.build(folder), folder

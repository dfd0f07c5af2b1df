"""The Dockerfile, which no daemon builds here: held to its rules by reading it, and its build stage's commands run for real.

Not shown: that the base images exist, that the final stage starts in them, and how large the image is.
"""

import re
from pathlib import Path

import pytest
from tests.deploy.dockerfile import DOCKERFILE, Stage, stages
from tests.journeys.life import GET, serving

from robin.testing.process import RobinProcess

ROOT = DOCKERFILE.parents[2]
UID = 10001


@pytest.fixture
def build() -> Stage:
    return stages(DOCKERFILE.read_text())[0]


@pytest.fixture
def final() -> Stage:
    return stages(DOCKERFILE.read_text())[1]


def test_two_stages_of_one_debian_and_one_python(build: Stage, final: Stage):
    """What pip compiles or picks for the first must run in the second."""
    assert len(stages(DOCKERFILE.read_text())) == 2
    assert build.name == "build"
    assert re.fullmatch(r"docker\.io/library/python:3\.11-slim-bookworm", build.image), "bookworm is Debian 12, whose Python is 3.11"
    assert re.fullmatch(r"gcr\.io/distroless/python3-debian12:nonroot", final.image)


def test_dependencies_come_from_the_lock_file_by_hash_and_nothing_else_does(build: Stage):
    installs = [one for one in build.of("RUN") if "pip install" in one.rest]
    assert len(installs) == 2
    assert {"--require-hashes", "--only-binary=:all:", "requirements/run.lock"} <= set(installs[0].rest.split())
    assert "--no-deps" in installs[1].rest.split()
    assert not [one for one in build.of("RUN") if re.search(r"\b(apt|apt-get|curl|wget)\b", one.rest)]
    assert not [one for stage in (build,) for one in stage.of("ADD")]


def test_everything_copied_is_there_and_let_through_by_the_ignore_file(build: Stage):
    let_through = {line[1:] for line in (DOCKERFILE.parent / "Dockerfile.dockerignore").read_text().splitlines() if line.startswith("!")}
    for one in build.of("COPY"):
        for source in one.words[:-1]:
            assert (ROOT / source).exists(), source
            assert source in let_through, source
    assert (DOCKERFILE.parent / "Dockerfile.dockerignore").read_text().startswith("*\n")


def test_what_the_package_needs_to_be_built_is_copied(build: Stage):
    """hatchling reads the readme and the licence that pyproject.toml names."""
    project = (ROOT / "pyproject.toml").read_text()
    copied = {source for one in build.of("COPY") for source in one.words[:-1]}
    for name in re.findall(r'^(?:readme|license-files) = \[?"([^"]+)"', project, re.MULTILINE):
        assert name in copied


def test_it_runs_as_nobody_special_with_no_shell_and_a_read_only_root_in_mind(final: Stage):
    assert final.one("USER").rest == f"{UID}:{UID}"
    assert final.of("RUN") == [], "distroless has no shell"
    environment = {key: value for one in final.of("ENV") for key, _, value in (word.partition("=") for word in one.rest.split())}
    assert environment["PYTHONDONTWRITEBYTECODE"] == "1"
    assert environment["PYTHONPATH"] == "/robin"
    assert not [name for name in environment if name.startswith("MALLOC_")], "Robin hands its heap back by itself"
    assert "HOME" not in environment
    assert final.one("COPY").rest == "--from=build /robin /robin"
    assert not final.of("VOLUME")


def test_the_entry_point_is_robin_and_the_default_command_its_sidecar(final: Stage):
    assert final.one("ENTRYPOINT").exec_form == ["/usr/bin/python3", "-m", "robin.cli.main"]
    assert final.one("CMD").exec_form == ["sidecar"]
    assert final.one("EXPOSE").rest == "4001", "the proxy itself is on loopback and cannot be published"


def test_no_secret_and_no_setting_is_baked_in(build: Stage, final: Stage):
    assert "ROBIN_" not in "".join(one.rest for stage in (build, final) for one in stage.instructions)


def program(built: tuple[str, Path]) -> tuple[str, ...]:
    """The entry point, with that interpreter and nothing of its own site."""
    python, target = built
    environment = ["env", f"PYTHONPATH={target}", "PYTHONSAFEPATH=1", "PYTHONDONTWRITEBYTECODE=1"]
    return ("/usr/bin/env", *environment[1:], python, "-S", "-m", "robin.cli.main")


@pytest.mark.slow
@pytest.mark.timeout(600)
async def test_the_build_stage_makes_a_robin_that_serves(built: tuple[str, Path], tmp_path: Path):
    target = built[1]
    assert not (target / "bin").exists()
    assert list(target.rglob("__pycache__/main.cpython-311.pyc"))
    async with RobinProcess("--version", program=program(built)) as robin:
        assert await robin.returned() == 0
        assert robin.stdout[0].startswith("robin ")
    before = {path: path.stat().st_mtime_ns for path in target.rglob("*.pyc")}
    async with serving(tmp_path, program=program(built)) as rig:
        assert (await rig.ask(GET)).status == 200
        maps = Path(f"/proc/{rig.robin.pid}/maps").read_text()
        assert "site-packages" not in maps, "everything that is loaded comes from the image's folder or the interpreter"
        assert await rig.robin.stop() == 0
    assert {path: path.stat().st_mtime_ns for path in target.rglob("*.pyc")} == before


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_layer_is_of_moderate_size(built: tuple[str, Path]):
    """Not the image: the base comes on top. CPython cannot be as small as a Go binary, but it must not grow unseen."""
    size = sum(path.stat().st_size for path in built[1].rglob("*") if path.is_file())
    assert size < 60_000_000, size

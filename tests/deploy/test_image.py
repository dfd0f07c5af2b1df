"""The image that `make image` makes without Docker: contents, configuration, bill of materials, and the Dockerfile's beside it."""

import io
import json
import re
import tarfile
from pathlib import Path
from typing import Any

import pytest
from deploy.image import contents, debian, image, oci
from tests.deploy.dockerfile import DOCKERFILE, Stage, stages

LIMIT_BYTES = 40_000_000  # compressed; it is 28 MB
NOTES_OF_PIP = ("RECORD", "REQUESTED", "INSTALLER", "direct_url.json")  # how it was installed, not what
SHELLS = ("bash", "busybox", "dash", "perl", "sh", "apt", "apt-get", "dpkg", "pip", "pip3")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture
def final() -> Stage:
    return stages(DOCKERFILE.read_text())[1]


def members(archive: Path) -> dict[str, tuple[tarfile.TarInfo, bytes]]:
    """All files of all layers, by path."""
    found: dict[str, tuple[tarfile.TarInfo, bytes]] = {}
    for layer in oci.read(archive)[0]:
        with tarfile.open(fileobj=io.BytesIO(layer.content), mode="r:gz") as opened:
            for member in opened:
                content = opened.extractfile(member) if member.isfile() else None
                found[member.name] = (member, content.read() if content else b"")
    return found


def configuration(folder: Path) -> dict[str, Any]:
    return dict(oci.read(folder / image.ARCHIVE)[1]["config"])


def test_the_same_tree_gives_the_same_bytes(made_image: tuple[oci.Image, Path], tmp_path: Path):
    built, folder = made_image
    assert image.build(tmp_path) == built
    for name in (image.ARCHIVE, image.BILL):
        assert (tmp_path / name).read_bytes() == (folder / name).read_bytes(), name


def test_it_starts_as_the_dockerfiles_image_does(made_image: tuple[oci.Image, Path], final: Stage):
    config = configuration(made_image[1])
    assert config["Entrypoint"] == final.one("ENTRYPOINT").exec_form
    assert config["Cmd"] == final.one("CMD").exec_form
    assert config["User"] == final.one("USER").rest == f"{contents.USER}:{contents.USER}"
    assert list(config["ExposedPorts"]) == [f"{final.one('EXPOSE').rest}/tcp"]
    assert set(final.one("ENV").rest.split()) < set(config["Env"])


def test_robin_and_its_dependencies_are_those_of_the_dockerfile_to_the_byte(made_image: tuple[oci.Image, Path], built: tuple[str, Path]):
    target = built[1]
    docker = {f"robin/{path.relative_to(target)}": path.read_bytes() for path in target.rglob("*") if path.is_file()}
    ours = {name: content for name, (member, content) in members(made_image[1] / image.ARCHIVE).items() if member.isfile()}
    ours = {name: content for name, content in ours.items() if name.startswith("robin/")}

    def compared(files: dict[str, bytes]) -> dict[str, bytes]:
        return {name: content for name, content in files.items() if not name.endswith((*NOTES_OF_PIP, ".pyc"))}

    assert compared(ours).keys() == compared(docker).keys()
    assert [name for name, content in compared(docker).items() if ours[name] != content] == []
    assert {name for name in ours if name.endswith(".pyc")} == {name for name in docker if name.endswith(".pyc")}


def test_it_holds_no_shell_nothing_writable_and_nothing_with_special_rights(made_image: tuple[oci.Image, Path]):
    files = members(made_image[1] / image.ARCHIVE)
    assert {name.rpartition("/")[2] for name in files if "/bin/" in name or "/sbin/" in name} == {"python3", "python3.11"}
    assert not [name for name, (member, _) in files.items() if member.isfile() and name.rpartition("/")[2] in SHELLS]
    for name, (member, _) in files.items():
        assert (member.uid, member.gid, member.mtime) == (0, 0, 0), name
        assert member.issym() or member.mode in ({0o1777} if name == "tmp" else {0o755, 0o644}), name


def test_every_python_module_of_ours_is_compiled(made_image: tuple[oci.Image, Path]):
    """The root file system is read-only: what is not compiled now is compiled at each start."""
    files = members(made_image[1] / image.ARCHIVE)
    sources = [name for name in files if name.endswith(".py") and name.startswith(("robin/", "usr/lib/python3.11/"))]
    lacking = [name for name in sources if re.sub(r"([^/]+)\.py$", r"__pycache__/\1.cpython-311.pyc", name) not in files]
    assert lacking == []
    assert len(sources) > 500


def test_it_is_as_small_as_the_field_expects(made_image: tuple[oci.Image, Path]):
    assert made_image[0].compressed_bytes < LIMIT_BYTES


def test_the_bill_names_every_package_by_checksum(made_image: tuple[oci.Image, Path]):
    built, folder = made_image
    bill = json.loads((folder / image.BILL).read_text())
    parts = {part["externalRefs"][0]["referenceLocator"]: part["checksums"][0]["checksumValue"] for part in bill["packages"]}
    for package in debian.read_lock(contents.LOCK):
        assert parts[f"pkg:deb/debian/{package.name}@{package.version}?arch=amd64&distro=debian-12"] == package.sha256
    pinned = re.findall(r"^([a-z0-9-]+)==(\S+)", contents.RUN_LOCK.read_text(), re.MULTILINE)
    hashes = set(re.findall(r"sha256:([0-9a-f]{64})", contents.RUN_LOCK.read_text()))
    assert {parts[f"pkg:pypi/{name}@{version}"] for name, version in pinned} <= hashes
    assert parts[f"pkg:oci/robin@{built.digest}"] == built.digest.removeprefix("sha256:")
    contained = [one["relatedSpdxElement"] for one in bill["relationships"] if one["relationshipType"] == "CONTAINS"]
    assert sorted(contained) == sorted(part["SPDXID"] for part in bill["packages"] if part["SPDXID"] != "SPDXRef-image")
    assert len(contained) == len(debian.read_lock(contents.LOCK)) + len(pinned) + 1


def test_a_package_that_differs_from_the_lock_is_refused(tmp_path: Path):
    """By its checksum, before anything of it is read."""
    served = tmp_path / "package.deb"
    served.write_bytes(b"!<arch>\nsomething else")
    package = debian.Package(name="libc6", version="1", sha256="0" * 64, url=served.as_uri())
    with pytest.raises(debian.PackageError, match=r"SHA-256 is .*, the lock has 0000"):
        debian.fetch(package, tmp_path / "cache")
    assert not (tmp_path / "cache").exists()

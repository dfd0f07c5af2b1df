"""An OCI image layout in one tar file, the same bytes for the same files: order, owners and times are fixed here."""

import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MEDIA = "application/vnd.oci.image"


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """A layer as it is stored, and the digest of what it is uncompressed."""

    content: bytes
    diff_id: str

    @property
    def digest(self) -> str:
        return sha256(self.content)


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """What was written: the digest of the manifest, which names the image, and the octets of the compressed layers."""

    digest: str
    compressed_bytes: int


def layer(folder: Path, *, epoch: int = 0) -> Layer:
    """All below `folder`, owned by root: files 0644, or 0755 where the owner may execute them; folders 0755, or 1777."""
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for path in _sorted(folder):
            entry = _entry(path, str(path.relative_to(folder)), epoch)
            if entry.isfile():
                with path.open("rb") as content:
                    archive.addfile(entry, content)
            else:
                archive.addfile(entry)
    text = plain.getvalue()
    return Layer(content=gzip.compress(text, compresslevel=9, mtime=0), diff_id=sha256(text))


def write(target: Path, layers: Sequence[Layer], *, config: Mapping[str, Any], names: Sequence[str], created: str) -> Image:
    """One image for linux/amd64. `config` is the container's: Env, User, Entrypoint and so on; `names` are what it is called."""
    document = {
        "created": created,
        "architecture": "amd64",
        "os": "linux",
        "config": config,
        "rootfs": {"type": "layers", "diff_ids": [one.diff_id for one in layers]},
    }
    blobs = {one.digest: one.content for one in layers}
    config_blob = _json(document)
    blobs[sha256(config_blob)] = config_blob
    manifest = {
        "schemaVersion": 2,
        "mediaType": f"{MEDIA}.manifest.v1+json",
        "config": _descriptor("config.v1+json", config_blob),
        "layers": [_descriptor("layer.v1.tar+gzip", one.content) for one in layers],
    }
    manifest_blob = _json(manifest)
    blobs[sha256(manifest_blob)] = manifest_blob
    described = {**_descriptor("manifest.v1+json", manifest_blob), "platform": {"architecture": "amd64", "os": "linux"}}
    entries = [{**described, "annotations": _annotations(name)} for name in names]
    index = {"schemaVersion": 2, "mediaType": f"{MEDIA}.index.v1+json", "manifests": entries}
    files = {f"blobs/sha256/{digest.removeprefix('sha256:')}": content for digest, content in blobs.items()}
    files |= {"index.json": _json(index), "oci-layout": _json({"imageLayoutVersion": "1.0.0"})}
    with tarfile.open(target, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, content in sorted(files.items()):
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(content), 0o644
            archive.addfile(entry, io.BytesIO(content))
    return Image(digest=sha256(manifest_blob), compressed_bytes=sum(len(one.content) for one in layers))


def read(archive: Path) -> tuple[list[Layer], dict[str, Any]]:
    """The layers and the configuration of the one image in an OCI tar file."""
    with tarfile.open(archive) as opened:

        def blob(digest: str) -> bytes:
            found = opened.extractfile(f"blobs/sha256/{digest.removeprefix('sha256:')}")
            assert found is not None
            return found.read()

        index = opened.extractfile("index.json")
        assert index is not None
        manifest = json.loads(blob(json.loads(index.read())["manifests"][0]["digest"]))
        document: dict[str, Any] = json.loads(blob(manifest["config"]["digest"]))
        stored = [blob(one["digest"]) for one in manifest["layers"]]
    diffs = document["rootfs"]["diff_ids"]
    return [Layer(content=content, diff_id=diff) for content, diff in zip(stored, diffs, strict=True)], document


def file_of(layers: Sequence[Layer], path: str) -> bytes:
    """A file as the uppermost layer that has it holds it."""
    for layer in reversed(layers):
        with tarfile.open(fileobj=io.BytesIO(layer.content), mode="r:gz") as opened:
            if path in opened.getnames():
                found = opened.extractfile(path)
                assert found is not None
                return found.read()
    raise FileNotFoundError(path)


def sha256(content: bytes) -> str:
    """As OCI writes a digest."""
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def _sorted(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.iterdir()):
        yield path
        if path.is_dir() and not path.is_symlink():
            yield from _sorted(path)


def _entry(path: Path, name: str, epoch: int) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.mtime, status = epoch, path.lstat()
    if path.is_symlink():
        entry.type, entry.linkname, entry.mode = tarfile.SYMTYPE, str(path.readlink()), 0o777
    elif path.is_dir():
        entry.type, entry.mode = tarfile.DIRTYPE, 0o1777 if status.st_mode & 0o1000 else 0o755
    else:
        entry.size, entry.mode = status.st_size, 0o755 if status.st_mode & 0o100 else 0o644
    return entry


def _annotations(name: str) -> dict[str, str]:
    """What Docker, podman and containerd call the image after they have loaded it."""
    return {"io.containerd.image.name": name, "org.opencontainers.image.ref.name": name.rpartition(":")[2]}


def _descriptor(kind: str, content: bytes) -> dict[str, Any]:
    return {"mediaType": f"{MEDIA}.{kind}", "digest": sha256(content), "size": len(content)}


def _json(document: object) -> bytes:
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode()

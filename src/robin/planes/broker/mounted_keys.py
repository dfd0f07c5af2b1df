"""The issuer's keys in a folder that others fill, such as a mounted Secret: read and never written.

Rules: folder and files belong to root or to us, and others never have a right on a file. Where the folder can be written, it and its files
are for the owner alone, as the broker's own (keys.py). On a read-only mount, where only who mounts it writes, the folder's mode does not
matter, the group may read a file, and a file may be the link that the kubelet makes: `NAME -> ..data/NAME` with `..data -> FOLDER`.
"""

import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Final

from robin.planes.broker.keys import IssuerKeyPair, KeyFileRefused, check_one_active, load_keys, parse_key_file, read_key_file

_DATA: Final = "..data"
_FILES_MOST: Final = 64


def load_issuer_keys(state_dir: Path, mounted: Path | None, *, now: float, auto_create: bool) -> tuple[IssuerKeyPair, ...]:
    """The keys of the mounted folder where there is one, else the broker's own. Raises as `load_keys`."""
    own = state_dir / "keys"
    return load_keys(own, now=now, auto_create=auto_create) if mounted is None else load_mounted_keys(mounted)


def load_mounted_keys(folder: Path, *, is_read_only: Callable[[Path], bool] | None = None) -> tuple[IssuerKeyPair, ...]:
    """Every key of the folder. Raises KeyFileRefused, OSError."""
    read_only = (is_read_only or _is_read_only)(folder)
    found = os.lstat(folder)
    if not stat.S_ISDIR(found.st_mode):
        raise KeyFileRefused(f"{folder}: it is not a folder")
    _check_owner(folder, found)
    if found.st_mode & 0o077 and not read_only:
        raise KeyFileRefused(f"{folder}: others can reach it, and it is not mounted read-only; mount it so, or chmod 0700 it")
    data = _data_folder(folder) if read_only else None
    names = sorted(path.name for path in folder.glob("*.jwk"))
    if len(names) > _FILES_MOST:
        raise KeyFileRefused(f"{folder}: it has more than {_FILES_MOST} keys")
    keys = tuple(_load(folder, name, data, read_only=read_only) for name in names)
    check_one_active(folder, keys)
    return keys


def mark_of(folder: Path) -> tuple[object, ...]:
    """What changes when the folder gets other keys: for a look once a second."""
    return tuple(_identity(path) for path in (folder, folder / _DATA, *sorted(folder.glob("*.jwk"))[: _FILES_MOST + 1]))


def _identity(path: Path) -> tuple[object, ...]:
    try:
        status = os.stat(path)
    except OSError:
        return (path.name,)
    return (path.name, status.st_dev, status.st_ino, status.st_mode, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def _is_read_only(folder: Path) -> bool:
    return bool(os.statvfs(folder).f_flag & os.ST_RDONLY)


def _data_folder(folder: Path) -> Path | None:
    """Where the kubelet's links lead now, so that all keys are of one version; None where it made none."""
    try:
        name = os.readlink(folder / _DATA)
    except OSError:
        return None
    return None if "/" in name or name in ("", ".", "..") else folder / name


def _load(folder: Path, name: str, data: Path | None, *, read_only: bool) -> IssuerKeyPair:
    path = folder / name
    if data is not None and path.is_symlink() and os.readlink(path) == f"{_DATA}/{name}":
        found, text = read_key_file(data / name)
    else:
        found, text = read_key_file(path)
    _check_owner(path, found)
    if found.st_mode & (0o037 if read_only else 0o077):
        fix = "mount it with defaultMode 0440" if read_only else "chmod 0600 it"
        raise KeyFileRefused(f"{path}: its mode is {stat.S_IMODE(found.st_mode):04o}, so others can reach it; {fix}")
    return parse_key_file(path, text)


def _check_owner(path: Path, found: os.stat_result) -> None:
    if found.st_uid not in (0, os.geteuid()):
        raise KeyFileRefused(f"{path}: it belongs to another user than root and the broker's")

"""boto3 and the AWS CLI in a venv of their own: requirements/clouds.lock, by hash. botocore is also a judge of signatures."""

import json
import platform
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.real.parts import cache, pyclients
from tests.real.parts.missing import MissingPart

LOCK = pyclients.LOCK.with_name("clouds.lock")
TITLE = "boto3 and the AWS CLI"
SIGN = Path(__file__).resolve().parents[1] / "clouds" / "sign.py"


def key() -> str:
    """Changes with the lock, this Python and the machine."""
    return cache.digest([LOCK.read_bytes(), sys.version, platform.machine()])


def find() -> Path:
    """The venv's Python, when it is in the cache; else MissingPart."""
    python = cache.place("awsclients", key()) / "bin" / "python"
    if not python.exists():
        raise MissingPart(name=TITLE, remedy="are not installed yet; run `make real` once")
    return python


def obtain() -> Path:
    """The venv's Python, installing the clients first when need be."""
    return cache.obtain("awsclients", key(), lambda folder: pyclients.install(folder, LOCK, TITLE)) / "bin" / "python"


def sign(cases: Sequence[dict[str, Any]]) -> list[str]:
    """The signatures that botocore gives them."""
    done = subprocess.run([find(), SIGN], input=json.dumps(cases), capture_output=True, text=True, check=True, timeout=120)
    found: list[str] = json.loads(done.stdout)
    return found

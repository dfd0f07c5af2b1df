"""versitygw: an S3 and the IAM and STS of it, which verify web identity tokens, session tokens and every signature.

IAM and the issuer that it trusts run in a user and network namespace of their own (`clouds/issuer.py` says why), behind Unix sockets.
"""

import contextlib
import hashlib
import json
import os
import shutil
import ssl
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.real.parts import awsclients, gobuild, relay
from tests.real.parts.ports import answers, held_port
from tests.real.parts.process import Server
from tests.real.parts.scratch import scratch_folder

from robin.testing.authority import IdentityAuthority
from robin.testing.certificates import CertificateAuthority, Leaf

ADDRESS = "203.0.113.10"  # of documentation (RFC 5737): public to those who look, and nobody's
CLOUDS = Path(__file__).resolve().parents[1] / "clouds"
_ROOT = {"ROOT_ACCESS_KEY": "VERSITYROOT000000001", "ROOT_SECRET_KEY": "versity-root-secret-0000000000001"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Cloud:
    """A running one: S3 on `port` with the bucket `bucket`, STS at the URL `sts`, and a role for one subject. `s3` logs its requests."""

    port: int
    sts: str
    role: str
    s3: Server


@contextlib.contextmanager
def versitygw(pki: CertificateAuthority, name: str, authority: IdentityAuthority, *, audience: str, subject: str) -> Iterator[Cloud]:
    """S3 over TLS under `name`; tokens of the authority for `audience` are good for the role if they are of `subject`."""
    gateway = gobuild.find(gobuild.VERSITYGW) / "versitygw"
    leaf = pki.issue(name)
    with scratch_folder("s3") as folder, held_port() as port, contextlib.ExitStack() as running:

        def start(title: str, command: list[str | Path], ready: Callable[[Server], object]) -> Server:
            server = Server(title, command, folder=folder, environment=_ROOT)
            running.callback(server.kill)
            server.start(lambda: ready(server))
            return server

        thumbprint = _write_issuer(folder, pki.issue(ADDRESS), authority)
        public, private = folder / "iam", folder / "private"
        (folder / "accounts").mkdir()
        iam: list[str | Path] = [gateway, "--port", public, "iam", "--dir", folder / "accounts", "--private-ports", private]
        room = ["unshare", "--map-root-user", "--net", sys.executable, CLOUDS / "issuer.py", ADDRESS, folder]
        start("versity-iam", [*room, *iam], lambda _: private.exists())
        tcp = start("relay", [sys.executable, relay.__file__, public], lambda server: server.log_text().endswith("\n"))
        sts = f"http://127.0.0.1:{tcp.log_text().strip()}/"
        role = _make_role(sts, folder, thumbprint, audience, subject)
        (folder / "data" / "bucket").mkdir(parents=True)
        options = [
            "--port",
            f"127.0.0.1:{port}",
            "--cert",
            leaf.certificate_file,
            "--key",
            leaf.key_file,
            "--iam-standalone-endpoint",
            private,
        ]
        s3 = start("versity-s3", [gateway, *options, "posix", folder / "data"], lambda _: answers(port))
        yield Cloud(port=port, sts=sts, role=role, s3=s3)


def _write_issuer(folder: Path, leaf: Leaf, authority: IdentityAuthority) -> str:
    """What the issuer shows. Returns the thumbprint of its certificate, by which IAM trusts it."""
    shutil.copy(leaf.certificate_file, folder / "tls.crt")
    shutil.copy(leaf.key_file, folder / "tls.key")
    (folder / "jwks.json").write_text(json.dumps(authority.jwks()))
    return hashlib.sha1(ssl.PEM_cert_to_DER_cert(leaf.certificate_file.read_text())).hexdigest()


def _make_role(sts: str, home: Path, *words: str) -> str:
    keys = {"AWS_ACCESS_KEY_ID": _ROOT["ROOT_ACCESS_KEY"], "AWS_SECRET_ACCESS_KEY": _ROOT["ROOT_SECRET_KEY"]}
    environment = {"PATH": os.environ["PATH"], "HOME": str(home), "AWS_EC2_METADATA_DISABLED": "true", **keys}
    command = [awsclients.find(), CLOUDS / "make_role.py", sts, ADDRESS, *words]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()

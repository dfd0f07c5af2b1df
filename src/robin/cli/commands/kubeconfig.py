"""Write a kubeconfig with which one agent reaches `robin kube`: Robin's address and CA, and a certificate or token of the agent.

No cluster credential is in it, and ~/.kube/config is never touched. It runs where the state folder of `robin kube` is.
"""

import argparse
import base64
import json
import os
import re
import sys
from pathlib import Path
from urllib.parse import urlsplit

from robin.config.kube import state_dir
from robin.config.load import environment
from robin.config.parse import InvalidValue, duration
from robin.policy.kube.rules import AGENT_NAME
from robin.transport.clock import SystemClock
from robin.transport.entropy import SystemEntropy
from robin.wire.compact_jws import encode_base64url

CERTIFICATE_S = 24 * 3600.0
TOKEN_S = 7 * 86400.0
_LIFETIME = duration("60s", "720h")


def configure(parser: argparse.ArgumentParser) -> None:
    """Agent, kind of credential, file."""
    parser.add_argument("--agent", required=True, metavar="NAME", help="the agent, as the policy names it")
    parser.add_argument("--auth", choices=("cert", "token"), default="cert", help="a certificate of 24 h, or a token of 7 days [cert]")
    parser.add_argument("--lifetime", metavar="DURATION", help="another life, up to 720h")
    parser.add_argument("--namespace", metavar="NS", help="the namespace of its context")
    parser.add_argument(
        "--server", default="https://127.0.0.1:6444", metavar="URL", help="where `robin kube` listens [https://127.0.0.1:6444]"
    )
    parser.add_argument("--state-dir", metavar="DIR", help="that of `robin kube` [$XDG_STATE_HOME/robin/kube]")
    parser.add_argument("--ca-file", metavar="FILE", help="the CA of the listener's certificate [the local CA of the state folder]")
    parser.add_argument("--out", metavar="FILE", help="the file to write, mode 0600 [standard output]")
    parser.add_argument("--force", action="store_true", help="replace an existing file")


def run(args: argparse.Namespace) -> int:
    """0 written, 2 usage."""
    try:
        text = _build(args)
        if args.out is None:
            print(text, end="")
            return 0
        _write(Path(args.out), text, force=args.force)
    except InvalidValue as error:
        return _refuse(f"--lifetime: {error.what}; {error.fix}")
    except OSError as error:
        return _refuse(f"{error.filename or args.out}: {error.strerror or error}; name a file or folder that can be read and written")
    except ValueError as error:
        return _refuse(str(error))
    kind = "certificate" if args.auth == "cert" else "token"
    print(f"{args.out}: a {kind} of {args.agent}, from {state_dir(args.state_dir or '', environment())}")
    return 0


def _refuse(text: str) -> int:
    print(f"robin kubeconfig: {text}", file=sys.stderr)
    return 2


def _build(args: argparse.Namespace) -> str:
    from robin.planes.kube.state import StateFolder, has_ca  # noqa: PLC0415 - certificates are made only here

    if re.fullmatch(AGENT_NAME, args.agent) is None:
        raise ValueError(f"--agent: a name matches {AGENT_NAME}")
    _check_server(args.server)
    lifetime_s = CERTIFICATE_S if args.auth == "cert" else TOKEN_S
    if args.lifetime is not None:
        lifetime_s = _LIFETIME.parse(args.lifetime)
    ca_octets = None if args.ca_file is None else Path(args.ca_file).read_bytes()  # before anything is issued
    path = state_dir(args.state_dir or "", environment())
    if not has_ca(path):
        raise ValueError(f"{path}: this is no state folder of `robin kube`; start `robin kube` first, or name its folder with --state-dir")
    folder = StateFolder(path, SystemClock().wall())
    if args.auth == "cert":
        issued = folder.issue_certificate(args.agent, lifetime_s)
        user = {"client-certificate-data": _data(issued.certificate_pem), "client-key-data": _data(issued.key_pem)}
    else:
        entropy = encode_base64url(bytes.fromhex(SystemEntropy().token_hex(32)))
        user = {"token": folder.issue_token(args.agent, entropy, lifetime_s)}
    name = f"robin-{args.agent}"
    context = {"cluster": "robin", "user": name} | ({"namespace": args.namespace} if args.namespace else {})
    ca_data = _data(folder.ca_file.read_bytes() if ca_octets is None else ca_octets)
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "robin", "cluster": {"server": args.server, "certificate-authority-data": ca_data}}],
        "users": [{"name": name, "user": user}],
        "contexts": [{"name": name, "context": context}],
        "current-context": name,
    }
    return json.dumps(config, indent=2) + "\n"  # kubectl reads JSON: it is YAML


def _check_server(url: str) -> None:
    """kubectl would send the credential of the agent to any URL, also without TLS."""
    parts = urlsplit(url)
    if parts.scheme != "https" or not parts.hostname or "@" in parts.netloc or parts.query or parts.fragment:
        raise ValueError("--server: write https://HOST[:PORT]")


def _data(octets: bytes) -> str:
    return base64.b64encode(octets).decode("ascii")


def _write(path: Path, text: str, *, force: bool) -> None:
    from robin.transport.private_file import write_private  # noqa: PLC0415

    if not path.parent.is_dir():
        raise ValueError(f"--out: there is no folder {path.parent}; make it first")
    if path.exists() and not force:
        raise ValueError(f"{path} exists; give --force to replace it")
    if os.path.realpath(path) == os.path.realpath(Path(environment().get("HOME") or "/") / ".kube" / "config"):
        raise ValueError("~/.kube/config is never written; name another file, and set KUBECONFIG to it")
    write_private(path, text.encode())

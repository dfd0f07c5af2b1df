"""Ask the broker's socket for a passport for one request. `--format curl` prints a command that sends it."""

import argparse
import hashlib
import json
import secrets
import shlex
import socket
import sys
from pathlib import Path
from typing import Any

from robin.model.passport import HTTPSIG, IDENTITY, KEY_PROTECTION, PROFILES
from robin.wire.broker_ipc import render_issue

EXIT_UNREACHABLE = 3
SOCKET = "/run/robin/broker.sock"
WAIT_S = 15.0
_REPLY_BYTES = 1 << 20


def configure(parser: argparse.ArgumentParser) -> None:
    """The request, and what is asked of the passport."""
    parser.add_argument("--method", required=True, metavar="M", help="of the request that will be sent")
    parser.add_argument("--path", required=True, metavar="P", help="as it will be sent, without the query")
    parser.add_argument("--query", default="", metavar="Q", help="as it will be sent, without the question mark")
    parser.add_argument("--scheme", default="https", choices=("https", "http"), help="that of the route [https]")
    parser.add_argument("--authority", required=True, metavar="HOST[:PORT]", help="the Host that will be sent")
    parser.add_argument("--audience", metavar="A", help="who will verify it [the route's first]")
    parser.add_argument("--route-id", metavar="R", help="[the route that fits]")
    parser.add_argument("--profile", default=HTTPSIG, choices=PROFILES, help=f"[{HTTPSIG}]")
    parser.add_argument("--header", action="append", default=[], metavar="N:V", help="a header to cover; repeatable")
    parser.add_argument("--body", metavar="FILE", help="the body that will be sent")
    parser.add_argument("--ctx", action="append", default=[], metavar="K=V", help="a value of the context; repeatable")
    parser.add_argument("--min-identity", default="none", choices=IDENTITY, help="the least that will do [none]")
    parser.add_argument("--min-key-protection", default="software", choices=KEY_PROTECTION, help="the least that will do [software]")
    parser.add_argument("--socket", default=SOCKET, metavar="S", help=f"issue.socket of the broker [{SOCKET}]")
    parser.add_argument("--format", default="headers", choices=("headers", "json", "curl"), help="what is printed [headers]")
    parser.add_argument("--connect-to", metavar="HOST:PORT", help="with --format curl: where the verifier listens")


def run(args: argparse.Namespace) -> int:
    """0 issued, 1 denied, 2 usage, 3 the broker cannot be reached."""
    fields = [[name.strip(), value.strip()] for name, _, value in (header.partition(":") for header in args.header)]
    body = Path(args.body).read_bytes() if args.body else b""
    target = f"{args.path}?{args.query}" if args.query else args.path
    http = {"method": args.method, "scheme": args.scheme, "authority": args.authority, "target": target, "fields": fields}
    request = {
        "request_id": f"cli-{secrets.token_hex(8)}",
        "profile": args.profile,
        "http": http | {"body_sha256": hashlib.sha256(body).hexdigest() if body else None},
        "audience": args.audience,
        "route_id": args.route_id,
        "nonce": None,
        "ctx": dict(pair.partition("=")[::2] for pair in args.ctx),
        "signer": {"identity": args.min_identity, "key_protection": args.min_key_protection},
        "svid_proof": None,
    }
    try:
        reply = _ask(args.socket, render_issue(request))
    except (OSError, ValueError) as error:
        print(f"robin passport: {args.socket}: {_why(error)}", file=sys.stderr)
        return EXIT_UNREACHABLE
    if reply.get("status") != "allow":
        print(f"deny {reply.get('reason')}", file=sys.stderr)
        return 1
    _show(args, reply, fields, target)
    return 0


def _ask(path: str, line: bytes) -> Any:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(WAIT_S)
        connection.connect(path)
        connection.sendall(line)
        reply = b""
        while len(reply) <= _REPLY_BYTES and (piece := connection.recv(65536)):
            reply += piece
    if not reply:
        raise ValueError("the connection was closed without a response; too many of this user's are open, or the log of the broker has why")
    try:
        document = json.loads(reply)
    except ValueError:
        document = None
    if not isinstance(document, dict):
        raise ValueError("the response is none of a broker; name the socket of `robin broker` with --socket")  # noqa: TRY004 - what came
    return document


def _why(error: OSError | ValueError) -> str:
    """What is wrong, and the fix."""
    if isinstance(error, TimeoutError):
        return f"no response in {WAIT_S:.0f} s; look at the log of the broker"
    if isinstance(error, PermissionError):
        return "this user may not connect; see broker.issue.socket_mode and socket_group"
    if isinstance(error, FileNotFoundError | ConnectionRefusedError):
        return f"{error.strerror}; start robin broker, or name its socket with --socket"
    if isinstance(error, OSError):
        return f"{error.strerror or error}; name the socket of `robin broker` with --socket"
    return str(error)


def _show(args: argparse.Namespace, reply: Any, fields: list[list[str]], target: str) -> None:
    headers = [*fields, *reply["headers"]]
    if args.format == "json":
        print(json.dumps(reply, indent=2))
    elif args.format == "headers":
        print("\n".join(f"{name}: {value}" for name, value in headers))
    else:
        words = ["curl", "-sS", "-X", args.method, "--path-as-is"]
        if args.connect_to:
            words += [
                "--connect-to",
                f"{args.authority}:{args.connect_to}" if ":" in args.authority else f"{args.authority}::{args.connect_to}",
            ]
        for name, value in headers:
            words += ["-H", f"{name}: {value}"]
        if args.body:
            words += ["--data-binary", f"@{args.body}"]
            if not any(name.lower() == "content-type" for name, _ in fields):
                words += ["-H", "Content-Type:"]  # none: curl would add one, which the proof does not cover
        print(shlex.join([*words, f"{args.scheme}://{args.authority}{target}"]))

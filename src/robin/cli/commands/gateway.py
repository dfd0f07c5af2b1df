"""Run the egress gateway: a forward proxy for programs that hold no credentials, with callers, rules and an address guard.

With --parent it is the relay in an agent's pod: everything goes to the gateway there, with the token of the pod.
"""

import argparse
import json
import sys
from functools import partial
from typing import Any

from robin.cli.gateway_file import add_config, loaded_or_exit, reload_gateway, text_or_exit
from robin.config.gateway_load import LoadedGateway


def configure(parser: argparse.ArgumentParser) -> None:
    """The file, a relay in few words, or the folder to make."""
    parser.usage = (
        "robin gateway [--config robin.yaml]\n"
        "       robin gateway --parent URL --token-file FILE [--ca-file FILE] [--listen ADDR] [--admin ADDR] [--probes ADDR]\n"
        "       robin gateway --init DIR"
    )
    add_config(parser)
    parser.add_argument("--parent", metavar="URL", help="be a relay to the gateway at https://host:port; no robin.yaml is read")
    parser.add_argument("--token-file", metavar="FILE", help="the token that the parent knows this pod by; read for each request")
    parser.add_argument("--ca-file", metavar="FILE", help="CA of the parent's certificate (PEM) [the system's roots]")
    parser.add_argument("--listen", metavar="ADDR", help="of the relay: IP:port on loopback [127.0.0.1:8081]")
    parser.add_argument("--admin", metavar="ADDR", help="of the relay: admin listener, or off [127.0.0.1:9464]")
    parser.add_argument("--probes", metavar="ADDR", help="of the relay: listener for probes from elsewhere, or off [off]")
    text = "write robin.yaml, a CA and the environment of programs into a folder, for one machine, and end; replaces nothing"
    parser.add_argument("--init", metavar="DIR", help=text)


def run(args: argparse.Namespace) -> int:
    """0 drained, 1 internal, 2 settings, 3 cannot bind, 4 cut at the deadline, 128+n second signal; --init: 0 written, 1 refused."""
    if args.init is not None:
        from robin.cli.gateway_init import write_folder  # noqa: PLC0415 - once in the life of a folder

        return write_folder(args.init)
    loaded = _loaded(args)
    if loaded.settings is not None and loaded.settings.parent is not None:
        from robin.app.relay import run_relay  # noqa: PLC0415 - a relay loads nothing of the gateway

        return run_relay(loaded.settings)
    from robin.app.gateway import run_gateway  # noqa: PLC0415 - the engine is loaded only once the settings are right

    return run_gateway(loaded, partial(reload_gateway, args.config))


def _loaded(args: argparse.Namespace) -> LoadedGateway:
    """Those of the file, or of the flags; exits 2 where they are wrong."""
    flags = ("--token-file", "--ca-file", "--listen", "--admin", "--probes")
    given = [flag for flag in flags if getattr(args, flag[2:].replace("-", "_")) is not None]
    if args.parent is None:
        if given:
            print(f"robin: {given[0]} is for a relay; add --parent, or write it into the file", file=sys.stderr)
            raise SystemExit(2)
        return loaded_or_exit(args.config)
    parent: dict[str, Any] = {"url": args.parent, "token_file": args.token_file, "ca_file": args.ca_file}
    section: dict[str, Any] = {"parent": {key: value for key, value in parent.items() if value is not None}}
    section["drain"] = {"min": "0s"}  # its only callers are in its pod, and end before it
    if args.listen is not None:
        section["listeners"] = [{"name": "proxy", "listen": args.listen}]
    admin = {"listen": args.admin, "probes": args.probes}
    if any(value is not None for value in admin.values()):
        section["admin"] = {key: value for key, value in admin.items() if value is not None}
    return text_or_exit(json.dumps({"version": 1, "gateway": section}))

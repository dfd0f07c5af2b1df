"""Run the Kubernetes plane: agents without a cluster credential, a decision, a minted token and an audit record for each request."""

import argparse

from robin.config.kube import FLAGS, KubeSettings, load_kube
from robin.config.kube_policy import KubeRefused
from robin.config.load import environment


def configure(parser: argparse.ArgumentParser) -> None:
    """Flags go before the file."""
    add_kube_settings(parser)
    parser.add_argument("--unsafe-broad-minter", action="store_true", help="start although Robin's account may mint elsewhere (S3)")
    parser.add_argument("--unsafe-self-minting", action="store_true", help="start although a minted account may mint (S4)")


def add_kube_settings(parser: argparse.ArgumentParser) -> None:
    """The flags that override settings."""
    parser.add_argument("--config", metavar="FILE", help="robin.yaml with a section `kube`")
    parser.add_argument("--cluster-url", metavar="URL", help="the API server [https://kubernetes.default.svc]")
    parser.add_argument("--credentials", metavar="MODE", help="jit: a token is minted for each request [jit]")
    parser.add_argument("--jit-service-account", metavar="NAME", help="the account that tokens are minted for [robin-agent]")
    parser.add_argument("--jit-namespace", metavar="NS", help="its namespace [robin-system]")
    parser.add_argument("--jit-ttl", metavar="DURATION", help="how long a token is used, 60s to max_ttl [300s]")
    parser.add_argument("--listen", metavar="ADDR", help="where agents connect, TLS always [127.0.0.1:6444]")
    parser.add_argument("--policy", metavar="FILE", help="what each agent may do")
    parser.add_argument("--state-dir", metavar="DIR", help="local CA, tokens and audit [$XDG_STATE_HOME/robin/kube]")


def load_or_exit(args: argparse.Namespace) -> KubeSettings:
    """The settings; each error on a line of standard error, and exit 2."""
    import sys  # noqa: PLC0415 - only a mistake writes there

    flags = {name: getattr(args, name) for name in FLAGS if getattr(args, name, None) is not None}
    unsafe = frozenset(name for name in ("broad_minter", "self_minting") if getattr(args, f"unsafe_{name}", False))
    try:
        return load_kube(args.config, flags, environment(), unsafe=unsafe)
    except KubeRefused as refused:
        for error in refused.errors:
            print(error, file=sys.stderr)
        raise SystemExit(2) from None


def run(args: argparse.Namespace) -> int:
    """0 drained, 1 internal or a check failed, 2 settings, 3 cannot bind, 4 cut at the deadline, 128+n second signal."""
    settings = load_or_exit(args)
    from robin.app.kube import run_kube  # noqa: PLC0415 - the engine is loaded only once the settings are right

    return run_kube(settings)

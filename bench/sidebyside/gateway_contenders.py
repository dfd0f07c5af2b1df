"""The forward proxies compared with `robin gateway`: how each is found, configured and started on one core."""

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path

from sidebyside import tools
from sidebyside.contenders import Contender, Details, Launch, Post

RULES = 10
_WILDCARDS = 10  # of so many rules one has a wildcard


def origin(post: Post) -> str:
    """The upstream without TLS, as requests name it."""
    return f"localhost:{port_of(post.plain)}"


def port_of(address: str) -> int:
    return int(address.rpartition(":")[2])


def first(post: Post) -> Details:
    """An absolute-form request that brings its own credential; a proxy that injects one replaces it."""
    return {"via": "absolute", "origin": origin(post), "direct": True}


def bridge_ca(pki: Path) -> Path:
    """The folder with the CA with which all of them sign leaves; made once in a run, by `robin ca init`."""
    folder = pki / "bridge"
    if not folder.exists():
        subprocess.run([str(tools.robin()), "ca", "init", "--out", str(folder)], check=True, stdout=subprocess.DEVNULL)
    return folder


def robin_launch(program: Path, post: Post, *, rules: int = RULES, issued: bool = False, leaves: int = 1024) -> Launch:
    """`rules`: how many there are beside those that are used; `issued`: the credential comes from an issuer, not from a file."""
    plain, secure, (host, port) = port_of(post.plain), port_of(post.secure), post.plain.rsplit(":", 1)
    grant: dict[str, object] = {"grant_type": "forward", "audience": "bench"}
    if issued:
        grant = {"token_endpoint": f"http://{host}:{port}/oauth/token", "jwt_svid_audience": "bench"}
    endpoints = [{"host": "localhost", "port": plain, "tls": "none"}]
    endpoints += [{"host": name, "port": secure} for name in ("localhost", "127.0.0.1")]
    profile = {"id": "bench", "display_name": "Bench", "credentials": [{"name": "token", "token_grant": grant}], "endpoints": endpoints}
    (post.work / "profile.yaml").write_text(json.dumps(profile))
    unused = [
        {"name": f"unused-{number}", "hosts": [f"{'h' if number % _WILDCARDS else '*'}.w{number}.bench.example"]} for number in range(rules)
    ]
    section = {
        "listeners": [{"name": "proxy", "listen": post.listen}],
        "admin": {"listen": post.admin},
        "drain": {"min": "0s", "max": "5s"},
        "identities": {"default": {"source": "file", "token_file": str(post.pki / "token"), "audience": "bench"}},
        "profiles": ["profile.yaml"],
        "providers": [{"profile": "bench", "callers": ["*"], "unsafe_plaintext": ["localhost"]}],
        "policy": {"rules": [*unused, {"name": "tunnels", "hosts": ["127.0.0.1"], "schemes": ["tcp"], "ports": [plain]}]},
        "bridge": {"slots": {"a": str(bridge_ca(post.pki))}, "sign_with": "a", "leaf_cache": leaves},
        "upstream_tls": {"ca_files": [str(post.pki / "ca.pem")]},
        "addresses": {"hosts": {"localhost": ["127.0.0.1"]}, "unsafe_loopback": [f"127.0.0.1:{plain}", f"127.0.0.1:{secure}"]},
        "limits": {
            "tunnels": 0,
            **dict.fromkeys(("tunnels_per_caller", "connections_per_caller", "inflight_per_caller"), 0),
            "mints_per_second": 100_000,
        },
    }
    config = post.work / "robin.yaml"
    config.write_text(json.dumps({"version": 1, "gateway": section}))
    return Launch(command=[str(program), "gateway", "--config", str(config)])


def _envoy(program: Path, post: Post) -> Launch:
    config = post.fill("envoy-forward.yaml")
    node = ("--service-node", "bench", "--service-cluster", "bench")
    return Launch(command=[str(program), "-c", str(config), "--concurrency", "1", "--use-dynamic-base-id", "-l", "error", *node])


def _squid(program: Path, post: Post) -> Launch:
    post.work.chmod(0o755)  # its helper is another user
    ssl = ""
    if post.bridge:
        ca, both, store = bridge_ca(post.pki), post.work / "ca.both", post.work / "leaves"
        both.touch(mode=0o600)
        both.write_bytes((ca / "tls.crt").read_bytes() + (ca / "tls.key").read_bytes())
        helper = Path("/usr/lib/squid/security_file_certgen")
        subprocess.run([str(helper), "-c", "-s", str(store), "-M", "4MB"], check=True, stdout=subprocess.DEVNULL)
        if os.geteuid() == 0:
            for place in (store, *store.rglob("*")):
                shutil.chown(place, "proxy", "proxy")
        ssl = f" ssl-bump cert={both} generate-host-certificates=on dynamic_cert_mem_cache_size=4MB"
    config = post.fill("squid.conf", ssl=ssl, store=str(post.work / "leaves"), service=_squid_service(post))
    if not post.bridge:
        config.write_text("\n".join(line for line in config.read_text().splitlines() if not line.endswith("# bridge")) + "\n")
    return Launch(command=[str(program), "-N", "-n", _squid_service(post), "-f", str(config)])


def _squid_service(post: Post) -> str:
    return f"bench{port_of(post.listen)}"


def _squid_ended(post: Post) -> None:
    """It leaves shared memory under its name."""
    for left in Path("/dev/shm").glob(f"{_squid_service(post)}-*"):
        left.unlink()


def _mitmproxy(program: Path, post: Post) -> Launch:
    ca = bridge_ca(post.pki)
    both = post.work / "mitmproxy-ca.pem"
    both.touch(mode=0o600)
    both.write_bytes((ca / "tls.key").read_bytes() + (ca / "tls.crt").read_bytes())
    inject = post.fill("mitmproxy-inject.py")
    settings = {"confdir": str(post.work), "ssl_verify_upstream_trusted_ca": str(post.pki / "ca.pem")}
    flags = [word for name, value in settings.items() for word in ("--set", f"{name}={value}")]
    listen = ("--listen-host", "127.0.0.1", "-p", str(port_of(post.listen)))
    return Launch(command=[str(program), "-q", *listen, "-s", str(inject), *flags])


def _smokescreen(program: Path, post: Post) -> Launch:
    listen = ("--listen-ip", "127.0.0.1", "--listen-port", str(port_of(post.listen)))
    return Launch(command=[str(program), *listen, "--allow-address", "127.0.0.1"], environment={"GOMAXPROCS": "1"})


def _said_by(*flags: str) -> Callable[[Path], str]:
    return lambda program: tools.says([str(program), *flags])


ROBIN = Contender(name="Robin", find=tools.robin, version=tools.robin_version, launch=robin_launch, first=first)
ROBIN_MINTING = partial(robin_launch, leaves=1)

GATEWAY_CONTENDERS = (
    ROBIN,
    Contender(name="Envoy", find=tools.envoy, version=_said_by("--version"), launch=_envoy, first=first),
    Contender(name="Squid", find=tools.squid, version=_said_by("-v"), launch=_squid, first=first, ended=_squid_ended),
    Contender(name="mitmproxy", find=tools.mitmproxy, version=_said_by("--version"), launch=_mitmproxy, first=first),
    Contender(
        name="smokescreen", find=tools.smokescreen, version=lambda _: f"smokescreen {tools.SMOKESCREEN}", launch=_smokescreen, first=first
    ),
)

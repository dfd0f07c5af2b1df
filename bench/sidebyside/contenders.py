"""The five programs compared: how each is found, configured and started as a sidecar on one core."""

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from sidebyside import tools
from sidebyside.machine import family, pinned

Details = Mapping[str, object]
"""Of an order to the load."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Post:
    """Where a contender stands: its listener, its upstream, its credential, a folder of its own."""

    listen: str
    admin: str
    upstream: str
    tls: bool
    pki: Path
    workload_api: str
    work: Path
    plain: str = ""  # of a forward proxy: both upstreams, and whether it opens the TLS of its clients
    secure: str = ""
    bridge: bool = False

    @property
    def token(self) -> str:
        return (self.pki / "token").read_text().strip()

    @property
    def url(self) -> str:
        return f"{'https' if self.tls else 'http'}://{self.upstream}"

    def fill(self, name: str, **more: str) -> Path:
        """Write bench/peers/<name> into the work folder with its @words@ replaced."""
        text = (tools.BENCH / "peers" / name).read_text()
        words = {"listen": self.listen, "port": self.listen.rpartition(":")[2], "upstream": self.upstream, "work": str(self.work)}
        words |= {"upstream_port": self.upstream.rpartition(":")[2], "ca": str(self.pki / "ca.pem"), "token": self.token, **more}
        for word, value in words.items():
            text = text.replace(f"@{word}@", value)
        place = self.work / name
        place.write_text(text)
        return place


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """A command and what it needs in its environment."""

    command: list[str]
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Contender:
    """One proxy of the comparison."""

    name: str
    find: Callable[[], Path]
    version: Callable[[Path], str]
    launch: Callable[[Path, Post], Launch]
    first: Callable[[Post], Details] = lambda _: {}  # how the request is sent that shows that it serves
    ended: Callable[[Post], None] = lambda _: None  # what it leaves behind goes


def _robin(program: Path, post: Post) -> Launch:
    environment = {
        "ROBIN_UPSTREAM_URL": post.url,
        "ROBIN_TOKEN_FILE": str(post.pki / "token"),
        "ROBIN_LISTEN_ADDR": post.listen,
        "ROBIN_ADMIN_ADDR": post.admin,
    }
    if post.tls:
        environment["ROBIN_UPSTREAM_CA_FILE"] = str(post.pki / "ca.pem")
    return Launch(command=[str(program)], environment=environment)


def _robin_jwtsvid(program: Path, post: Post) -> Launch:
    plain = _robin(program, post)
    environment = {key: value for key, value in plain.environment.items() if key != "ROBIN_TOKEN_FILE"}
    environment |= {"ROBIN_TOKEN_SOURCE": "jwtsvid", "ROBIN_AUDIENCE": "bench", "ROBIN_SPIFFE_SOCKET": f"unix://{post.workload_api}"}
    return Launch(command=plain.command, environment=environment)


def _go(program: Path, post: Post) -> Launch:
    command = [str(program), "-listen", post.listen, "-upstream", post.url, "-token-file", str(post.pki / "token")]
    if post.tls:
        command += ["-ca-file", str(post.pki / "ca.pem")]
    return Launch(command=command, environment={"GOMAXPROCS": "1"})


def _envoy(program: Path, post: Post) -> Launch:
    post.fill("envoy-secret.yaml")
    tls = post.fill("envoy-tls.yaml").read_text() if post.tls else ""
    config = post.fill("envoy.yaml", tls=tls)
    return Launch(command=[str(program), "-c", str(config), "--concurrency", "1", "--use-dynamic-base-id", "-l", "error", *_ENVOY_NODE])


_ENVOY_NODE = ("--service-node", "bench", "--service-cluster", "bench")  # file-based SDS insists on them


def _nginx(program: Path, post: Post) -> Launch:
    config = post.fill("nginx.conf", scheme="https" if post.tls else "http")
    return Launch(command=[str(program), "-c", str(config), "-e", str(post.work / "nginx-error.log")])


def _haproxy(program: Path, post: Post) -> Launch:
    tls = f"ssl verify required ca-file {post.pki / 'ca.pem'} verifyhost localhost sni str(localhost)" if post.tls else ""
    config = post.fill("haproxy.cfg", tls=tls)
    return Launch(command=[str(program), "-f", str(config), "-db"], environment={"BENCH_TOKEN": post.token})


def _said_by(*flags: str) -> Callable[[Path], str]:
    return lambda program: tools.says([str(program), *flags])


CONTENDERS = (
    Contender(name="Robin", find=tools.robin, version=tools.robin_version, launch=_robin),
    Contender(name="Go", find=lambda: tools.go_program("goproxy"), version=lambda _: tools.says(["go", "version"]), launch=_go),
    Contender(name="Envoy", find=tools.envoy, version=_said_by("--version"), launch=_envoy),
    Contender(name="nginx", find=lambda: tools.debian_program("nginx"), version=_said_by("-v"), launch=_nginx),
    Contender(name="HAProxy", find=lambda: tools.debian_program("haproxy"), version=_said_by("-v"), launch=_haproxy),
)


def robin_before(program: Path, now: Contender = CONTENDERS[0]) -> Contender:
    """The Robin of another checkout, to compare with this one. `program` is its `.venv/bin/robin`."""

    def find() -> Path:
        if not program.is_file():
            raise tools.Missing("Robin before: there is no program at the path given with --before")
        return program.absolute()

    return replace(now, name="Robin before", find=find)


ROBIN_JWTSVID = Contender(name="Robin (jwtsvid)", find=tools.robin, version=tools.robin_version, launch=_robin_jwtsvid)


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """A started contender."""

    name: str
    address: str
    process: subprocess.Popen[bytes] | None = None  # None: no proxy, the upstream itself
    complaints: Path = Path(os.devnull)

    def pids(self) -> list[int]:
        """The proxy's processes; none for the upstream itself."""
        return family(self.process.pid) if self.process else []

    def ended(self) -> bool:
        return self.process is not None and self.process.poll() is not None

    def last_words(self) -> str:
        """The end of what it complained about."""
        return "\n".join(self.complaints.read_text(errors="replace").splitlines()[-5:])


@contextmanager
def started(contender: Contender, core: int, post: Post) -> Iterator[Running]:
    """Run a contender on its core; its access log goes to /dev/null, its complaints to a file. Not yet serving."""
    launch = contender.launch(contender.find(), post)
    complaints = post.work / "stderr"
    with complaints.open("wb") as stderr, pinned(core):
        process = subprocess.Popen(
            launch.command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=stderr,
            env={"PATH": os.defpath, "HOME": str(post.work), **launch.environment},
        )
    try:
        yield Running(name=contender.name, address=post.listen, process=process, complaints=complaints)
    finally:
        process.terminate()
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            print(f"bench: {contender.name} did not end within 15 s of SIGTERM; killed", file=sys.stderr)
            process.kill()
            process.wait()
        contender.ended(post)


def free_port() -> int:
    """A port nobody holds now: these programs cannot tell us which port 0 gave them."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port

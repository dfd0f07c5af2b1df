"""Commands built from Go modules: each small module of ours under tests/real/go pins the version, its go.sum the content.

Go's own module and build caches are used as they are set up; the commands themselves land in our cache.
"""

import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from tests.real.parts import cache, versions
from tests.real.parts.missing import MissingPart
from tests.real.parts.progress import Progress

MODULES = Path(__file__).resolve().parent.parent / "go"
ERROR_TAIL_LINES = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class GoModule:
    """A folder under tests/real/go (`name`, unless `source` names another), and the commands that it builds: file name -> package."""

    name: str
    version: str
    commands: dict[str, str]
    ldflags: str = "-s -w"
    tags: str = ""
    cgo: bool = False
    source: str = ""

    @property
    def folder(self) -> Path:
        return MODULES / (self.source or self.name)

    @property
    def title(self) -> str:
        return f"{self.name} {self.version}"


_KUBERNETES_LDFLAGS = f"-s -w -X k8s.io/component-base/version.gitVersion=v{versions.KUBERNETES}"
KUBERNETES = GoModule(
    name="kubernetes",
    version=versions.KUBERNETES,
    commands={
        "kube-apiserver": "k8s.io/kubernetes/cmd/kube-apiserver",
        "kubectl": "k8s.io/kubernetes/cmd/kubectl",
        "kube-project": "./projected",
    },
    ldflags=_KUBERNETES_LDFLAGS,
)
NODE = GoModule(
    name="kubernetes-node",
    source="kubernetes",  # the same versions, so that what both need is compiled once
    version=versions.KUBERNETES,
    commands={name: f"k8s.io/kubernetes/cmd/{name}" for name in ("kubelet", "kube-controller-manager", "kube-scheduler", "kube-proxy")},
    ldflags=_KUBERNETES_LDFLAGS,
)
CONTAINERD = GoModule(
    name="containerd",
    version=versions.CONTAINERD,
    commands={name: f"github.com/containerd/containerd/v2/cmd/{name}" for name in ("containerd", "containerd-shim-runc-v2", "ctr")},
    ldflags=f"-s -w -X github.com/containerd/containerd/v2/version.Version=v{versions.CONTAINERD}",
    tags="no_btrfs no_devmapper no_zfs",
)
CNI = GoModule(
    name="cni",
    version=versions.CNI,
    commands={
        name.rpartition("/")[2]: f"github.com/containernetworking/plugins/plugins/{name}"
        for name in ("ipam/host-local", "main/bridge", "main/loopback")
    },
)
KUBE_ROUTER = GoModule(
    name="kube-router",
    version=versions.KUBE_ROUTER,
    commands={"kube-router": "github.com/cloudnativelabs/kube-router/v2/cmd/kube-router"},
)
CLUSTER = GoModule(name="cluster", version=f"with CoreDNS {versions.COREDNS}", commands={"coredns": "./coredns", "pause": "./pause"})
ETCD = GoModule(name="etcd", version=versions.ETCD, commands={"etcd": "go.etcd.io/etcd/server/v3"})
SPIFFE = GoModule(
    name="spiffe",
    version=f"with go-spiffe {versions.GO_SPIFFE}",
    commands={"spiffe-authority": "./authority", "spiffe-agent": "./agent", "spiffe-ask": "./ask"},
)
SPIRE = GoModule(
    name="spire",
    version=versions.SPIRE,
    commands={"spire-server": "github.com/spiffe/spire/cmd/spire-server", "spire-agent": "github.com/spiffe/spire/cmd/spire-agent"},
    ldflags=f"-s -w -X github.com/spiffe/spire/pkg/common/version.gittag={versions.SPIRE}",
    cgo=True,  # its SQLite
)
HTTP = GoModule(name="http", version="(net/http)", commands={"http-client": "./client", "http-get": "./get", "http-origin": "./origin"})
VERSITYGW = GoModule(name="versitygw", version=versions.VERSITYGW, commands={"versitygw": "github.com/versity/versitygw/cmd/versitygw"})
HELM = GoModule(name="helm", version=versions.HELM, commands={"helm": "helm.sh/helm/v3/cmd/helm"})
CERT_MANAGER = GoModule(name="cert-manager", version=versions.CERT_MANAGER, commands={"cert-manager": "."})
ALL = (SPIFFE, HTTP, ETCD, KUBERNETES, SPIRE, VERSITYGW, HELM)
CLUSTER_ALL = (CLUSTER, CNI, ETCD, CONTAINERD, KUBERNETES, NODE, KUBE_ROUTER)


def key(module: GoModule) -> str:
    """Changes with the module's files, the commands, the Go toolchain and the machine."""
    files = sorted(path for path in module.folder.rglob("*") if path.suffix in {".go", ".mod", ".sum"})
    content = [part for path in files for part in (str(path.relative_to(module.folder)), path.read_bytes())]
    needs = [*(["cgo"] if module.cgo else []), *([module.tags] if module.tags else [])]
    return cache.digest([repr(sorted(module.commands.items())), module.ldflags, *needs, toolchain(module), *content])


def toolchain(module: GoModule) -> str:
    """`go version`, checked against the module's go line."""
    wanted = re.search(r"^go (\S+)$", (module.folder / "go.mod").read_text(), re.MULTILINE)
    assert wanted is not None, f"{module.folder}/go.mod has no go line"
    remedy = f"needs Go {wanted[1]} or newer to be built; install that toolchain and put `go` on PATH, then run `make real`"
    if module.cgo and shutil.which("gcc") is None:
        raise MissingPart(name=module.title, remedy="needs gcc for its SQLite; install gcc and libc6-dev, and run `make real`")
    if shutil.which("go") is None:
        raise MissingPart(name=module.title, remedy=f"{remedy} (there is no `go` on PATH)")
    # The toolchain that the module gets: with GOTOOLCHAIN=auto go fetches a newer one by itself, else it says that it is too old.
    asked = subprocess.run(["go", "version"], cwd=module.folder, capture_output=True, text=True, check=False, timeout=300)
    if asked.returncode != 0:
        raise MissingPart(name=module.title, remedy=f"{remedy} ({asked.stderr.strip()})")
    found = re.search(r"\bgo(\d+)\.(\d+)", asked.stdout)
    major, minor = (int(part) for part in wanted[1].split(".")[:2])
    if found is None or (int(found[1]), int(found[2])) < (major, minor):
        raise MissingPart(name=module.title, remedy=f"{remedy} (this is {asked.stdout.strip()})")
    return asked.stdout.strip()


def find(module: GoModule) -> Path:
    """The folder with the module's commands, when they are built already; else MissingPart."""
    folder = cache.place(module.name, key(module))
    if not folder.is_dir():
        raise MissingPart(name=module.title, remedy="is not built yet; run `make real` once")
    return folder


def obtain(module: GoModule) -> Path:
    """The folder with the module's commands, building them first when need be."""
    return cache.obtain(module.name, key(module), lambda folder: _build(module, folder))


def _build(module: GoModule, folder: Path) -> None:
    for command, package in module.commands.items():
        with Progress(f"{command} ({module.title}) from its Go module") as line:
            _build_one(module, package, folder / command, line)


def _build_one(module: GoModule, package: str, target: Path, line: Progress) -> None:
    command = ["go", "build", "-v", "-trimpath", "-buildvcs=false", "-mod=readonly", "-tags", module.tags]
    command += ["-ldflags", module.ldflags, "-o", str(target), package]
    environment = {**os.environ, "CGO_ENABLED": "1" if module.cgo else "0", "GOFLAGS": "", "GOWORK": "off"}
    tail: list[str] = []
    downloads = compiled = 0
    with subprocess.Popen(
        ["nice", "-n", "10", *command],
        cwd=module.folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        for text in process.stderr:
            tail = [*tail, text.rstrip()][-ERROR_TAIL_LINES:]
            if text.startswith("go: downloading"):
                downloads += 1
            else:
                compiled += 1
            line(f"{downloads} modules fetched, {compiled} packages compiled")
    if process.returncode != 0:
        raise MissingPart(name=module.title, remedy="could not be built:\n" + "\n".join(tail))

"""A real cluster of one node: control plane, kubelet, containerd, runc, CNI, service proxy, DNS and NetworkPolicy.

Every part is upstream's own program. `node_cluster()` starts it in a machine of its own and ends all of it; each part is a Server that a
test may kill and start again.
"""

import contextlib
import json
import secrets
import shutil
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tests.cluster.parts import images, services, system
from tests.cluster.parts.machine import SHARED, Machine, machine
from tests.real.parts import gobuild
from tests.real.parts.kube import KubeApi, KubeRefused, etcd_command, kubeconfig
from tests.real.parts.ports import answers, held_port
from tests.real.parts.process import Server, poll

from robin.testing.certificates import CertificateAuthority, Leaf

LIFE_S = 90 * 24 * 3600.0
DNS_NAMES = ("broker.example", "api.example", "other.example")  # where tests have their servers: the node's own address
CONTAINERD = ("ctr", "--address", services.CONTAINERD_SOCKET, "--namespace", "k8s.io")


class NodeCluster(KubeApi):
    """Made by `node_cluster()`; as an administrator sees it from this machine. `node` is where its programs run."""

    def __init__(self, node: Machine, port: int, authority: CertificateAuthority) -> None:
        super().__init__(node.folder, gobuild.find(gobuild.KUBERNETES), port, ca_file=authority.ca_file)
        self.node = node
        self.authority = authority
        words = etcd_command(SHARED, data="/var/lib/etcd")
        self.etcd = node.server("etcd", "etcd", *words[1:])
        self.apiserver = node.server("kube-apiserver", *services.APISERVER)
        self.controller_manager = node.server("kube-controller-manager", *services.CONTROLLER_MANAGER)
        self.scheduler = node.server("kube-scheduler", *services.SCHEDULER)
        self.containerd = node.server("containerd", *services.CONTAINERD)
        self.kubelet = node.server("kubelet", *services.KUBELET)
        self.proxy = node.server("kube-proxy", *services.PROXY)
        self.router = node.server("kube-router", *services.ROUTER)
        relay = [sys.executable, "-m", "tests.cluster.parts.relay", str(port), str(node.pid), "127.0.0.1", "6443"]
        self.relay = Server(
            "relay", relay, folder=node.folder, environment={"PYTHONPATH": f"{images.contents.ROOT}:{images.contents.ROOT}/src"}
        )
        self._port = port

    def jwks(self) -> dict[str, Any]:
        """The keys that tokens of this cluster verify with."""
        return self.request("GET", "/openid/v1/jwks")

    def discovery(self) -> dict[str, Any]:
        """The discovery document of its issuer."""
        return self.request("GET", "/.well-known/openid-configuration")

    def start(self, archives: Sequence[Path]) -> None:
        """Start everything and load the images in these tar files; ready when the node is, and cluster DNS."""
        self._write()
        with ThreadPoolExecutor() as at_once:
            loading = at_once.submit(self._start_runtime, archives)
            self.etcd.start((self.folder / "client:0").exists)
            self.relay.start(lambda: answers(self._port))
            self.apiserver.start(self.ready, timeout_s=240.0)
            loading.result()
        for part in (self.controller_manager, self.scheduler, self.kubelet, self.proxy):
            part.start(lambda: True)
        self.apply(system.objects(*DNS_NAMES))
        self.router.start(lambda: True)
        self.wait_for("node", services.NODE, "Ready")
        self.rolled_out("deployment/coredns", namespace="kube-system")

    def stop(self) -> None:
        """End every part at once."""
        parts = (self.kubelet, self.containerd, self.router, self.proxy, self.scheduler, self.controller_manager, self.apiserver, self.etcd)
        for part in (self.relay, *parts):
            part.kill()

    def load(self, archive: Path) -> None:
        """Load an image from an OCI tar file, as a registry would have brought it."""
        copied = self.folder / f"image-{secrets.token_hex(4)}.tar"
        shutil.copy(archive, copied)
        try:
            self.node.run(*CONTAINERD, "images", "import", SHARED / copied.name)
        finally:
            copied.unlink()

    def apply(self, objects: Sequence[dict[str, Any]] | dict[str, Any] | str | Path, *, namespace: str = "") -> list[str]:
        """`kubectl apply`, of objects, YAML text or a file, into `namespace` unless they name theirs. KubeRefused in kubectl's words."""
        if isinstance(objects, Path):
            source, text = str(objects), ""
        elif isinstance(objects, str):
            source, text = "-", objects
        else:
            items = [objects] if isinstance(objects, dict) else list(objects)
            source, text = "-", json.dumps({"apiVersion": "v1", "kind": "List", "items": items})
        return self._kubectl(*(["--namespace", namespace] if namespace else []), "apply", "-f", source, stdin=text).splitlines()

    def get(self, kind: str, name: str, *, namespace: str = "default") -> dict[str, Any]:
        """One object."""
        found: dict[str, Any] = json.loads(self._kubectl("--namespace", namespace, "get", kind, name, "-o", "json"))
        return found

    def every(self, kind: str, *, namespace: str = "default") -> dict[str, dict[str, Any]]:
        """All objects of a kind in a namespace, by name."""
        items = json.loads(self._kubectl("--namespace", namespace, "get", kind, "-o", "json"))["items"]
        return {item["metadata"]["name"]: item for item in items}

    def wait_for(self, kind: str, name: str, condition: str, *, namespace: str = "default", timeout_s: float = 120.0) -> None:
        """Until the object has the condition; the pod's own story is in the error."""
        words = ("wait", f"--for=condition={condition}", f"{kind}/{name}", f"--timeout={timeout_s:.0f}s")
        try:
            poll(lambda: self._exists(kind, name, namespace), timeout_s=timeout_s, what=f"{kind} {name} to be there", every_s=0.1)
            self._kubectl("--namespace", namespace, *words, timeout_s=timeout_s + 10)
        except (KubeRefused, TimeoutError) as failure:
            failure.add_note(self.story(namespace))
            raise

    def rolled_out(self, what: str, *, namespace: str = "default", timeout_s: float = 120.0) -> None:
        """Until a Deployment or DaemonSet has rolled out."""
        try:
            self._kubectl("--namespace", namespace, "rollout", "status", what, f"--timeout={timeout_s:.0f}s", timeout_s=timeout_s + 10)
        except KubeRefused as failure:
            failure.add_note(self.story(namespace))
            raise

    def logs(self, pod: str, container: str, *words: str, namespace: str = "default") -> str:
        """What the container wrote."""
        return self._kubectl("--namespace", namespace, "logs", pod, "-c", container, *words)

    def execute(self, pod: str, container: str, *command: str, namespace: str = "default") -> tuple[int, str]:
        """Run a program in a container; its return code and output."""
        asked = self.kubectl("--namespace", namespace, "exec", pod, "-c", container, "--", *command)
        return asked.returncode, asked.stdout + asked.stderr

    def delete(self, *words: str, namespace: str = "default") -> None:
        """`kubectl delete`, and wait until it is gone."""
        self._kubectl("--namespace", namespace, "delete", "--ignore-not-found", *words)

    def story(self, namespace: str) -> str:
        """Pods, events and the ends of the logs of a namespace, for a person who asks what went wrong."""
        pods = self.kubectl("--namespace", namespace, "get", "pods", "-o", "wide").stdout
        for pod in self.every("pods", namespace=namespace):
            pods += self.kubectl("--namespace", namespace, "logs", pod, "--all-containers", "--prefix", "--tail=5").stdout
        events = self.kubectl("--namespace", namespace, "get", "events", "--sort-by=.lastTimestamp").stdout
        return f"{pods}\n{chr(10).join(events.splitlines()[-25:])}"

    def has_account(self, account: str, *, namespace: str) -> None:
        """Wait for the controller that makes a namespace's `default` account."""
        poll(lambda: self._exists("serviceaccount", account, namespace), timeout_s=60.0, what=f"the account {account}", every_s=0.1)

    @contextlib.contextmanager
    def following(self, pod: str, container: str, *, namespace: str) -> Iterator[Server]:
        """`kubectl logs --follow` in the background: it ends by itself when the container has ended."""
        command = self.kubectl_command("--namespace", namespace, "logs", "--follow", pod, "-c", container)
        follower = Server(f"logs-{pod}-{container}-{secrets.token_hex(4)}", command, folder=self.folder)
        try:
            follower.start(lambda: True)
            yield follower
        finally:
            follower.kill()

    def _exists(self, kind: str, name: str, namespace: str) -> bool:
        return self.kubectl("--namespace", namespace, "get", kind, name, "-o", "name").returncode == 0

    def _kubectl(self, *words: str, stdin: str = "", timeout_s: float = 120.0) -> str:
        asked = self.kubectl(*words, stdin=stdin, timeout_s=timeout_s)
        if asked.returncode != 0:
            raise KubeRefused(code=asked.returncode, message=asked.stderr.strip() or asked.stdout.strip())
        return asked.stdout

    def _start_runtime(self, archives: Sequence[Path]) -> None:
        socket = Path(f"/proc/{self.node.pid}/root{services.CONTAINERD_SOCKET}")
        self.containerd.start(socket.exists)
        for archive in archives:
            self.load(archive)

    def _write(self) -> None:
        """Keys, certificates and configuration."""
        tokens = {name: secrets.token_urlsafe(24) for name in services.USERS}
        self.write_keys(*(f'{tokens[name]},{user},{user},"{groups}"' for name, (user, groups) in services.USERS.items()))
        for name, token in tokens.items():
            (self.folder / f"{name}.kubeconfig").write_text(json.dumps(kubeconfig(services.API, f"{SHARED}/ca.pem", token)))
        self._certificate("apiserver", *services.API_NAMES, *services.API_ADDRESSES)
        self._certificate("kubelet-client", "kubelet-client")
        self._certificate("kubelet-server", services.NODE, services.NODE_ADDRESS)
        (self.folder / "kubelet.json").write_text(json.dumps(services.kubelet_configuration()))
        (self.folder / "containerd.toml").write_text(services.containerd_configuration())
        (self.folder / "cni").mkdir()
        (self.folder / "cni" / "10-pods.conflist").write_text(services.network_configuration())

    def _certificate(self, file: str, *names: str) -> None:
        leaf: Leaf = self.authority.issue(*names, ends_in_s=LIFE_S)
        leaf.certificate_file.rename(self.folder / f"{file}.pem")
        leaf.key_file.rename(self.folder / f"{file}.key")


@contextlib.contextmanager
def node_cluster(*archives: Path) -> Iterator[NodeCluster]:
    """A cluster that is ready, with these images loaded; ended and removed after. CannotRun where this machine cannot."""
    programs = [gobuild.find(module) for module in gobuild.CLUSTER_ALL]
    with machine(programs) as node, held_port() as port:
        cluster = NodeCluster(node, port, CertificateAuthority(node.folder, name="Robin test cluster", ends_in_s=LIFE_S))
        try:
            cluster.start([*images.system(), *archives])
            yield cluster
        finally:
            cluster.stop()

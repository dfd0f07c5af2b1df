"""`robin broker` beside an application, its socket on an emptyDir, and a verifier in front of a service, in two pods.

The application holds nothing: its user is all that the broker goes by.
"""

import base64
import json
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from tests.cluster.parts.cluster import NodeCluster
from tests.cluster.parts.pods import APP_IMAGE, MANIFESTS, WAIT, aside, robin_pod, states
from tests.cluster.parts.services import NODE_ADDRESS
from tests.cluster.parts.upstream import ClusterService
from tests.real.parts.process import poll

from robin.cli.main import main
from robin.planes.broker.keys import IssuerKeyPair, make_key, save_key
from robin.wire.broker_ipc import render_issue

AUTHORITY = "orders:8080"
ADMIN_PORT, SERVICE_PORT = 9464, 8090
USER, STRANGER = 20001, 20009
SUBJECT = "spiffe://example.org/app"
# An emptyDir itself can be written by everyone in the pod, so the broker makes a folder of its own in each.
SOCKET = "/run/robin/broker/broker.sock"
STATE = "/var/lib/robin/broker"
COMMON = {
    "trust_domain": "example.org",
    "issuer": "https://issuer.example",
    "state_dir": STATE,
    "admin": {"listen": f"0.0.0.0:{ADMIN_PORT}"},
}
ROUTE = {"route_id": "read", "audiences": ["orders"], "method": "GET", "path_template": "/orders", "scheme": "http"}
BROKER: dict[str, Any] = {
    **COMMON,
    "issue": {
        "socket": SOCKET,
        "socket_mode": "0660",
        "socket_group": "10001",  # the pod's fsGroup, so every container is in it, and the peer rules decide
        "peers": [{"name": "app", "match": {"uid": USER}, "subject": SUBJECT, "routes": ["read"]}],
        "routes": [
            {**ROUTE, "authorities": [AUTHORITY]},
            {**ROUTE, "route_id": "admin", "path_template": "/admin", "authorities": [AUTHORITY]},
        ],
    },
}
VERIFIER = {
    **COMMON,
    "verify": {
        "bundle": "/etc/robin/bundle.json",
        "bundle_keys": ["/etc/robin/sign.jwk.pub"],
        "authorities": [AUTHORITY],
        "scheme": "http",
        "clock_skew": "1s",  # one clock here, and ready after two seconds
        "inbound": {"listen": "0.0.0.0:8080", "upstream": f"{NODE_ADDRESS}:{SERVICE_PORT}"},
    },
}
ROBIN = ("/usr/bin/python3", "-m", "robin.cli.main")
ASK = """
import socket
def ask(line):
    with socket.socket(socket.AF_UNIX) as broker:
        broker.connect(%r)
        broker.sendall(line)
        return json.load(broker.makefile())
"""
SEND = """
import http.client
def send(headers):
    connection = http.client.HTTPConnection("orders", 8080, timeout=10)
    connection.putrequest("GET", "/orders")
    for name, value in headers:
        connection.putheader(name, value)
    connection.endheaders()
    answer = connection.getresponse()
    body = answer.read()
    return [answer.status, json.loads(body)["reason"] if body else ""]
"""
HOLDS = """
import os
def failure(act):
    try:
        act()
    except OSError as refused:
        return refused.strerror
aside = failure(lambda: os.rename("/run/robin/broker", "/run/robin/other"))
print(json.dumps({"aside": aside, "held": [path for path in ("/var/run/secrets", "/var/lib/robin") if os.path.exists(path)]}))
"""
CONFINED = """
import os
status = dict(line.rstrip("\\n").split(":\\t", 1) for line in open("/proc/self/status"))
print(json.dumps([os.getuid(), int(status["CapEff"], 16), os.statvfs("/").f_flag & os.ST_RDONLY]))
"""
SEEN = """
import glob
roots = {row[4]: row[3] for row in map(str.split, open("/proc/self/mountinfo"))}
groups = {}
for path in glob.glob("/proc/[0-9]*/cgroup"):
    try:
        groups[path.split("/")[2]] = open(path).read()
    except OSError:
        pass  # it has ended
print(json.dumps({"roots": roots, "groups": groups}))
"""


def request(route: str, path: str, *, scheme: str = "http", authority: str = AUTHORITY) -> bytes:
    """The line that asks the broker for a passport for a GET of this path."""
    http = {"method": "GET", "scheme": scheme, "authority": authority, "target": path, "fields": [], "body_sha256": None}
    signer = {"identity": "none", "key_protection": "software"}
    rest = {"audience": None, "route_id": route, "nonce": None, "ctx": {}, "signer": signer, "svid_proof": None}
    return render_issue({"request_id": "pod-1", "profile": "wimse-httpsig", "http": http, **rest})


def application(name: str, uid: int) -> dict[str, Any]:
    """A container that may connect to the broker and not write beside its socket."""
    mounts = [{"name": "run", "mountPath": "/run/robin", "readOnly": True}]
    context = {"runAsUser": uid, "runAsGroup": uid}
    return {
        "name": name,
        "image": APP_IMAGE,
        "command": ["/usr/bin/python3", "-c", WAIT],
        "securityContext": context,
        "volumeMounts": mounts,
    }


def broker_pod(name: str, *applications: dict[str, Any], **spec: Any) -> dict[str, Any]:
    """A pod of `robin broker` with its state and its socket on emptyDirs; ready when the broker says so. `medium`: of the socket's."""
    medium = spec.pop("medium", "")
    mounts = [{"name": "state", "mountPath": "/var/lib/robin"}, {"name": "run", "mountPath": "/run/robin"}, *spec.pop("mounts", ())]
    volumes = [{"name": "state", "emptyDir": {}}, {"name": "run", "emptyDir": {"medium": medium}}, *spec.pop("volumes", ())]
    pod = robin_pod(name, {"robin": name}, "broker", configuration=name, port=ADMIN_PORT, mounts=mounts, volumes=volumes, **spec)
    (robin,) = pod["spec"]["containers"]
    robin["readinessProbe"] = {"httpGet": {"path": "/readyz", "port": ADMIN_PORT}, "periodSeconds": 1}
    pod["spec"] |= {"containers": [robin, *applications], "terminationGracePeriodSeconds": 2}
    return pod


def configuration(name: str, section: dict[str, Any], **files: str) -> dict[str, Any]:
    """The ConfigMap of a pod."""
    data = {"robin.yaml": json.dumps({"version": 1, "broker": section}), **files}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data}


def sign(draft: str, folder: Path) -> dict[str, str]:
    """The signed bundle and the public key of its signer, whose private key is not in the cluster."""
    key, bundle = folder / "sign.jwk", folder / "bundle.json"
    (folder / "draft.json").write_text(draft)
    assert main(["passport", "bundle", "keygen", "--out", str(key)]) == 0
    assert main(["passport", "bundle", "sign", "--bundle", str(folder / "draft.json"), "--key", str(key), "--out", str(bundle)]) == 0
    return {"bundle.json": bundle.read_text(), "sign.jwk.pub": Path(f"{key}.pub").read_text()}


ORDERS = request("read", "/orders")


class Journey:
    """Programs in the containers of the two pods."""

    def __init__(self, cluster: NodeCluster, namespace: str) -> None:
        self._cluster = cluster
        self._namespace = namespace

    async def robin(self, pod: str, *words: str) -> str:
        """What a command of Robin says, run where that pod's Robin runs."""
        return await self._run(pod, "robin", *ROBIN, *words)

    async def python(self, pod: str, container: str, *program: str) -> Any:
        """What a program printed as JSON."""
        return json.loads(await self._run(pod, container, "/usr/bin/python3", "-c", "\n".join(("import json", *program))))

    async def ask(self, container: str, line: bytes = ORDERS) -> str:
        """The reason with which the broker answers a container."""
        reply = await self.python("broker", container, ASK % SOCKET, f"print(json.dumps(ask({line!r})))")
        return str(reply["reason"])

    async def records(self, pod: str) -> list[dict[str, Any]]:
        """The audit file of a pod, whose chain verifies."""
        file = f"{STATE}/audit.jsonl"
        await self.robin(pod, "audit", "verify", file)
        found = await self.python(pod, "robin", f"print(json.dumps([json.loads(line) for line in open({file!r})]))")
        return [one for one in found if one["event"].startswith("passport.")]

    async def _run(self, pod: str, container: str, *command: str) -> str:
        code, text = await aside(self._cluster.execute, pod, container, *command, namespace=self._namespace)
        assert code == 0, text
        return text


async def start_broker(cluster: NodeCluster, namespace: str, pod: dict[str, Any], section: dict[str, Any] = BROKER) -> Journey:
    """The broker with its applications."""
    await aside(cluster.apply, [configuration("broker", section), pod], namespace=namespace)
    await aside(cluster.wait_for, "pod", "broker", "Ready", namespace=namespace, timeout_s=60)
    return Journey(cluster, namespace)


async def start_verifier(cluster: NodeCluster, namespace: str, bundle: dict[str, str]) -> None:
    """The verifier with the bundle, and its Service."""
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "orders"},
        "spec": {"selector": {"robin": "verifier"}, "ports": [{"port": 8080}]},
    }
    await aside(cluster.apply, [configuration("verifier", VERIFIER, **bundle), service, broker_pod("verifier")], namespace=namespace)
    await aside(cluster.wait_for, "pod", "verifier", "Ready", namespace=namespace, timeout_s=60)


async def make_bundle(journey: Journey, folder: Path) -> dict[str, str]:
    """Built where the broker's keys are, signed outside of the cluster."""
    draft = f"{STATE}/draft.json"
    await journey.robin("broker", "passport", "bundle", "build", "--config", "/etc/robin/robin.yaml", "--out", draft)
    return sign(await journey.robin("broker", "passport", "bundle", "show", "--bundle", draft), folder)


async def test_an_application_without_a_key_is_known_by_its_user_and_its_passport_is_taken_once(
    cluster: NodeCluster, namespace: str, tmp_path: Path
):
    pod = broker_pod("broker", application("app", USER), application("stranger", STRANGER))
    async with ClusterService(cluster, port=SERVICE_PORT) as service:
        journey = await start_broker(cluster, namespace, pod)
        await start_verifier(cluster, namespace, await make_bundle(journey, tmp_path))
        again = f"headers = ask({ORDERS!r})['headers']\nprint(json.dumps([send([]), send(headers), send(headers)]))"
        answers = await journey.python("broker", "app", ASK % SOCKET, SEND, again)
        assert answers == [[401, "passport_missing"], [200, ""], [400, "nonce_replay"]]
        (forwarded,) = service.requests
    assert (forwarded.target, forwarded.values(b"robin-passport-subject")) == (b"/orders", [SUBJECT.encode()])
    assert await journey.ask("app", request("admin", "/admin")) == "peer_route_not_allowed"
    assert await journey.ask("stranger") == "peer_not_allowed"
    held = {"aside": "Read-only file system", "held": []}
    assert await journey.python("broker", "app", HOLDS) == held, "it cannot put a socket of its own there, and holds neither key nor token"
    assert await journey.python("broker", "robin", CONFINED) == [10001, 0, 1]

    issued, refused, unknown = await journey.records("broker")
    assert [one["reason_code"] for one in (issued, refused, unknown)] == [
        "broker_passport_issued",
        "peer_route_not_allowed",
        "peer_not_allowed",
    ]
    # The application is in another pid namespace: the kernel reports its user and group, and 0 for the pid, so that no cgroup can be read.
    nothing = {"pid": None, "pid_proven": False, "process": "unknown", "exe": "unknown"}
    assert issued["peer"] == refused["peer"] == {"uid": USER, "gid": USER, **nothing}
    assert unknown["peer"] == {"uid": STRANGER, "gid": STRANGER, **nothing}
    missing, verified, replayed = await journey.records("verifier")
    assert [one["reason_code"] for one in (missing, verified, replayed)] == ["passport_missing", "passport_verified", "nonce_replay"]
    for one in (verified, replayed):
        assert [one[name] for name in ("subject", "jti", "base_sha256")] == [SUBJECT, issued["jti"], issued["base_sha256"]]


async def test_where_processes_are_shared_the_peer_is_a_process_of_this_pod(cluster: NodeCluster, namespace: str):
    """What evidence of "in the same pod" could go by (passports.md 7), as the broker's container sees it on this node.

    The cgroup names the pod only where the container has no cgroup namespace of its own, as here with v1; the volume's root only where it
    is on a disk: in memory it is `/`.
    """
    pod = broker_pod("broker", application("app", USER), shareProcessNamespace=True)
    pod["spec"]["volumes"].append({"name": "memory", "emptyDir": {"medium": "Memory"}})
    pod["spec"]["containers"][0]["volumeMounts"].append({"name": "memory", "mountPath": "/memory"})
    journey = await start_broker(cluster, namespace, pod)
    assert await journey.ask("app") == "broker_passport_issued"
    (issued,) = await journey.records("broker")
    peer = issued["peer"]
    assert peer.pop("pid") > 1
    assert peer == {"uid": USER, "gid": USER, "pid_proven": True, "process": "python3", "exe": "unknown"}, "another mount namespace: no exe"
    uid = (await aside(cluster.get, "pod", "broker", namespace=namespace))["metadata"]["uid"]
    seen = await journey.python("broker", "robin", SEEN)
    assert len(seen["groups"]) > 3, "those of the application too"
    assert all(f"/pod{uid}/" in group for group in seen["groups"].values())
    assert seen["roots"]["/run/robin"].endswith(f"/pods/{uid}/volumes/kubernetes.io~empty-dir/run")
    assert seen["roots"]["/memory"] == "/"


async def test_the_emptydir_itself_is_no_folder_for_the_socket(cluster: NodeCluster, namespace: str):
    """Everyone in the pod could replace it there."""
    issue = {**BROKER["issue"], "socket": "/run/robin/broker.sock"}
    pod = broker_pod("broker", restartPolicy="Never")
    await aside(cluster.apply, [configuration("broker", {**BROKER, "issue": issue}), pod], namespace=namespace)
    await aside(
        poll,
        lambda: cluster.get("pod", "broker", namespace=namespace)["status"]["phase"] == "Failed",
        timeout_s=60.0,
        what="the broker to end",
        every_s=0.2,
    )
    stopped = states(await aside(cluster.get, "pod", "broker", namespace=namespace))["robin"]["state"]["terminated"]
    assert stopped["exitCode"] == 2
    assert "/run/robin: others can write to it" in await aside(cluster.logs, "broker", "robin", namespace=namespace)


# the shipped pod: keys from a Secret

MOUNTED = """
import os, stat
found = {name: [stat.S_IMODE(os.stat(path).st_mode), os.stat(path).st_uid] for name, path in (%r).items() if os.path.exists(path)}
print(json.dumps(found))
"""
KEYS = "/etc/robin-keys"


def key_secret(folder: Path, pair: IssuerKeyPair) -> dict[str, Any]:
    """The Secret of the shipped pod with this key alone. An apply takes away what `data` has no more; of `stringData` it would not."""
    path = save_key(folder, pair)
    data = {path.name: base64.b64encode(path.read_bytes()).decode()}
    path.unlink()
    return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "robin-broker-keys"}, "data": data}


def shipped_pod() -> list[dict[str, Any]]:
    """ConfigMap and pod, whose application waits for programs of this test."""
    settings, pod = (one for one in yaml.safe_load_all((MANIFESTS / "broker" / "pod.yaml").read_text()) if one)
    pod["spec"]["containers"][0]["command"] = ["/usr/bin/python3", "-c", WAIT]
    return [settings, pod]


async def signing_kid(journey: Journey) -> str:
    """Whose key signs what the application of the shipped pod gets."""
    line = request("orders.read", "/orders", scheme="https", authority="orders.example")
    reply = await journey.python("app-with-broker", "app", ASK % SOCKET, f"print(json.dumps(ask({line!r})))")
    assert reply["reason"] == "broker_passport_issued", reply
    header = dict(reply["headers"])["Workload-Identity-Token"].partition(".")[0]
    return str(json.loads(base64.urlsafe_b64decode(header + "==="))["kid"])


async def test_the_shipped_pod_signs_with_the_secrets_key_and_with_the_one_that_replaces_it(
    cluster: NodeCluster, namespace: str, tmp_path: Path
):
    old, new = (make_key(status="active", created=number) for number in (1, 2))
    await aside(cluster.apply, [key_secret(tmp_path, old), *shipped_pod()], namespace=namespace)
    await aside(cluster.wait_for, "pod", "app-with-broker", "Ready", namespace=namespace, timeout_s=60)
    journey = Journey(cluster, namespace)
    assert await signing_kid(journey) == old.kid
    paths = {"file": f"{KEYS}/{old.kid}.jwk", "settings": "/etc/robin/robin.yaml", "state": STATE}
    program = MOUNTED % (paths,)
    held = await journey.python("app-with-broker", "robin", program)
    assert held["file"] == [0o440, 0]
    assert held["state"] == [0o2700, 10001], "of the group that fsGroup gives to what is made on the volume"
    assert await journey.python("app-with-broker", "app", program) == {}, "the application has none of it"

    await aside(cluster.apply, [key_secret(tmp_path, new)], namespace=namespace)
    log = partial(cluster.logs, "app-with-broker", "robin", namespace=namespace)
    await aside(poll, lambda: '"keys_' in log(), timeout_s=120.0, what="the new key to be read", every_s=1.0)
    assert "keys_refused" not in await aside(log)
    assert await signing_kid(journey) == new.kid


async def test_a_key_that_others_may_read_ends_the_broker(cluster: NodeCluster, namespace: str, tmp_path: Path):
    settings, pod = shipped_pod()
    (keys,) = [one for one in pod["spec"]["volumes"] if one["name"] == "keys"]
    keys["secret"]["defaultMode"] = 0o644
    secret = key_secret(tmp_path, make_key(status="active", created=1))
    await aside(cluster.apply, [secret, settings, pod], namespace=namespace)

    def ended() -> dict[str, Any]:
        status = states(cluster.get("pod", "app-with-broker", namespace=namespace)).get("robin", {})
        found: dict[str, Any] = status.get("state", {}).get("terminated") or status.get("lastState", {}).get("terminated") or {}
        return found

    stopped = await aside(poll, ended, timeout_s=60.0, what="the broker to end", every_s=0.2)
    assert stopped["exitCode"] == 2

    def said() -> bool:
        """By the container that ended, or by the one that was started in its place meanwhile."""
        words = ("--namespace", namespace, "logs", "app-with-broker", "-c", "robin")
        logs = [cluster.kubectl(*words, *which).stdout for which in ((), ("--previous",))]
        return any("its mode is 0644, so others can reach it" in log for log in logs)

    await aside(poll, said, timeout_s=60.0, what="the broker's reason", every_s=0.2)

"""Small readings of pods, and calls that block, made in a thread: the upstream of the pods is served by the test's own loop meanwhile."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import yaml

MANIFESTS = Path(__file__).resolve().parents[3] / "deploy" / "kubernetes"
APP_IMAGE = "registry.example/app:1"
Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


async def aside(call: Callable[Arguments, Result], *arguments: Arguments.args, **named: Arguments.kwargs) -> Result:
    """Make a call that blocks."""
    return await asyncio.to_thread(call, *arguments, **named)


def shipped(name: str) -> dict[str, Any]:
    """The one object of a shipped manifest."""
    found: dict[str, Any] = yaml.safe_load((MANIFESTS / name).read_text())
    return found


def states(pod: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The status of each container by its name."""
    status = pod["status"]
    return {one["name"]: one for one in (*status.get("initContainerStatuses", ()), *status.get("containerStatuses", ()))}


def told(log: str) -> list[dict[str, Any]]:
    """The JSON lines of a log."""
    return [json.loads(line) for line in log.splitlines() if line.startswith("{")]


WAIT = "import signal; signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM]); signal.sigwait([signal.SIGTERM])"


def idle_pod(
    name: str, labels: dict[str, str], *, uid: int = 20001, command: tuple[str, ...] = ("/usr/bin/python3", "-c", WAIT), **spec: Any
) -> dict[str, Any]:
    """A pod that waits, in which tests run programs; `spec` has further fields of the pod."""
    mounts = [{"name": volume["name"], "mountPath": volume["hostPath"]["path"]} for volume in spec.get("volumes", ())]
    container = {"name": "app", "image": APP_IMAGE, "command": list(command), "volumeMounts": mounts}
    whole = {"containers": [container], "automountServiceAccountToken": False, "securityContext": {"runAsUser": uid}, **spec}
    return _pod(name, labels, {"terminationGracePeriodSeconds": 2, **whole})


def robin_pod(name: str, labels: dict[str, str], plane: str, *, configuration: str, port: int, **spec: Any) -> dict[str, Any]:
    """A pod of a plane, confined as the sidecar is, with the ConfigMap `configuration` as /etc/robin; ready when its port accepts."""
    sidecar = shipped("sidecar.yaml")["spec"]["initContainers"][0]
    container = {
        "name": "robin",
        "image": sidecar["image"],
        "args": [plane, "--config", "/etc/robin/robin.yaml"],
        "securityContext": sidecar["securityContext"],
        "resources": sidecar["resources"],
        "readinessProbe": {"tcpSocket": {"port": port}, "periodSeconds": 1},
        "volumeMounts": [{"name": "configuration", "mountPath": "/etc/robin", "readOnly": True}, *spec.pop("mounts", ())],
        "env": spec.pop("env", []),
    }
    volumes = [{"name": "configuration", "configMap": {"name": configuration}}, *spec.pop("volumes", ())]
    context = {"runAsNonRoot": True, "fsGroup": 10001, "seccompProfile": {"type": "RuntimeDefault"}}
    whole = {"containers": [container], "volumes": volumes, "automountServiceAccountToken": False, "securityContext": context, **spec}
    return _pod(name, labels, whole)


def _pod(name: str, labels: dict[str, str], spec: dict[str, Any]) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": labels}, "spec": spec}

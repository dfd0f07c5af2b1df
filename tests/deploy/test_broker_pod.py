"""The shipped pod of `robin broker`: settings that load, keys that it alone mounts, a socket that the application cannot replace."""

from pathlib import Path
from typing import Any

import yaml

from robin.config.broker_load import BrokerSettings, load_broker

FILE = Path(__file__).parents[2] / "deploy" / "kubernetes" / "broker" / "pod.yaml"
CONFIG_MAP, POD = (one for one in yaml.safe_load_all(FILE.read_text()) if one)
(ROBIN,) = POD["spec"]["initContainers"]
(APP,) = POD["spec"]["containers"]


def settings() -> BrokerSettings:
    found, diagnostics = load_broker(CONFIG_MAP["data"]["robin.yaml"].encode(), "robin.yaml")
    assert diagnostics == ()
    assert found is not None
    return found


def mounts(container: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {one["name"]: one for one in container["volumeMounts"]}


def volume(name: str) -> dict[str, Any]:
    (found,) = [one for one in POD["spec"]["volumes"] if one["name"] == name]
    return dict(found)


def test_the_settings_load_and_their_paths_are_mounted():
    broker = settings()
    assert broker.issue is not None
    places = {name: one["mountPath"] for name, one in mounts(ROBIN).items()}
    assert ROBIN["args"] == ["broker", "--config", f"{places['settings']}/robin.yaml"]
    assert volume("settings")["configMap"]["name"] == CONFIG_MAP["metadata"]["name"]
    assert str(broker.keys_dir) == places["keys"]
    # Each container could write to an emptyDir itself, so socket and state have folders in it, which the broker makes.
    assert broker.issue.socket.startswith(f"{places['run']}/broker/")
    assert str(broker.state_dir) == f"{places['state']}/broker"
    (admin,) = ROBIN["ports"]
    assert (admin["containerPort"], broker.admin.host) == (broker.admin.port, "0.0.0.0")


def test_the_broker_alone_has_the_keys_and_others_may_not_read_them():
    assert mounts(ROBIN)["keys"]["readOnly"]
    assert mounts(ROBIN).keys() - mounts(APP).keys() == {"settings", "keys", "state"}
    assert volume("keys")["secret"]["defaultMode"] == 0o440
    assert POD["spec"]["securityContext"]["fsGroup"] == ROBIN["securityContext"]["runAsUser"]
    assert not POD["spec"]["automountServiceAccountToken"]


def test_the_application_is_known_by_its_user_and_cannot_take_the_sockets_place():
    issue = settings().issue
    assert issue is not None
    (peer,) = issue.peers
    assert peer.uid == APP["securityContext"]["runAsUser"] != ROBIN["securityContext"]["runAsUser"]
    assert (issue.socket_mode, issue.socket_group) == (0o660, POD["spec"]["securityContext"]["fsGroup"])
    assert mounts(APP)["run"] == {"name": "run", "mountPath": mounts(ROBIN)["run"]["mountPath"], "readOnly": True}


def test_the_broker_is_a_confined_native_sidecar_and_the_pod_waits_longer_than_a_drain():
    context = ROBIN["securityContext"]
    assert (context["allowPrivilegeEscalation"], context["readOnlyRootFilesystem"], context["capabilities"]) == (
        False,
        True,
        {"drop": ["ALL"]},
    )
    assert ROBIN["restartPolicy"] == "Always"
    assert "startupProbe" in ROBIN
    assert POD["spec"]["securityContext"]["runAsNonRoot"]
    assert POD["spec"]["terminationGracePeriodSeconds"] > settings().drain_max_s
    assert not {"hostNetwork", "hostPID", "shareProcessNamespace"} & POD["spec"].keys()

"""The shipped manifests of `robin kube`: settings that load, two accounts, a confined pod."""

from pathlib import Path
from typing import Any

import yaml

from robin.app.kube import DRAIN_S
from robin.config.kube import load_kube

FOLDER = Path(__file__).parents[2] / "deploy" / "kubernetes" / "kube"
PLANE, AGENT = ([one for one in yaml.safe_load_all((FOLDER / name).read_text()) if one] for name in ("plane.yaml", "agent.yaml"))


def only(objects: list[dict[str, Any]], kind: str) -> dict[str, Any]:
    (found,) = [one for one in objects if one["kind"] == kind]
    return found


def test_the_settings_and_the_policy_of_the_config_map_load(tmp_path: Path):
    for name, text in only(PLANE, "ConfigMap")["data"].items():
        (tmp_path / name).write_text(text.replace("/etc/robin/policy", f"{tmp_path}/policy"))
    settings = load_kube(str(tmp_path / "robin.yaml"), {}, {"HOME": str(tmp_path)})
    role = only(PLANE, "Role")["rules"]
    assert role == [
        {"apiGroups": [""], "resources": ["serviceaccounts/token"], "verbs": ["create"], "resourceNames": [settings.jit.service_account]}
    ]
    assert settings.jit.namespace == only(PLANE, "Role")["metadata"]["namespace"] == only(AGENT, "ServiceAccount")["metadata"]["namespace"]
    assert settings.jit.bind_secret == only(AGENT, "Secret")["metadata"]["name"]
    assert settings.jit.service_account == only(AGENT, "ServiceAccount")["metadata"]["name"]
    mounts = {one["mountPath"] for one in container()["volumeMounts"]}
    files = (settings.tls_cert_file, settings.client_ca_file, settings.state_dir, "/var/run/secrets/kubernetes.io/serviceaccount/token")
    assert {str(Path(path).parent) for path in files} <= mounts


def test_what_mints_and_what_is_minted_are_two_accounts_and_no_token_is_mounted_unasked():
    minter, agent = only(PLANE, "ServiceAccount"), only(AGENT, "ServiceAccount")
    assert minter["metadata"]["name"] != agent["metadata"]["name"]
    assert not minter["automountServiceAccountToken"]
    assert not agent["automountServiceAccountToken"]
    assert {one["kind"] for one in [*PLANE, *AGENT]}.isdisjoint({"ClusterRole", "ClusterRoleBinding"})
    assert only(AGENT, "RoleBinding")["metadata"]["namespace"] != only(AGENT, "ServiceAccount")["metadata"]["namespace"]


def container() -> dict[str, Any]:
    (found,) = only(PLANE, "Deployment")["spec"]["template"]["spec"]["containers"]
    return dict(found)


def test_the_pod_is_confined_and_waits_longer_than_a_drain():
    pod = only(PLANE, "Deployment")["spec"]["template"]["spec"]
    context = container()["securityContext"]
    assert (context["allowPrivilegeEscalation"], context["readOnlyRootFilesystem"], context["capabilities"]) == (
        False,
        True,
        {"drop": ["ALL"]},
    )
    assert pod["securityContext"]["runAsNonRoot"]
    assert pod["terminationGracePeriodSeconds"] > DRAIN_S
    assert not {"hostNetwork", "hostPID", "shareProcessNamespace"} & pod.keys()
    assert only(PLANE, "Deployment")["spec"]["replicas"] == 1

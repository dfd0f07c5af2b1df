"""`robin check --manifest` (G57): Robin's own manifests have no finding; each of the four points is found where it is broken."""

import json
from pathlib import Path

import pytest

from robin.cli.manifests import check_manifests
from robin.config.manifest import check_manifest

OWN = sorted((Path(__file__).parents[2] / "deploy" / "kubernetes").rglob("*.yaml"))
POD = """\
apiVersion: v1
kind: Pod
spec:
  automountServiceAccountToken: false
  containers:
  - {name: app, image: app, securityContext: {runAsUser: 20001}, volumeMounts: [{name: work, mountPath: /work}]}
  - name: robin
    image: registry.example/robin:1
    securityContext: {runAsUser: 10001}
    env: [{name: ROBIN_TOKEN_FILE, value: /id/a/token}]
    volumeMounts: [{name: tokens, mountPath: /tokens}, {name: id, mountPath: /id/a}, {name: work, mountPath: /id}]
  volumes:
  - {name: tokens, projected: {sources: [{serviceAccountToken: {audience: broker.example, path: token}}]}}
  - {name: id, emptyDir: {}}
  - {name: more, projected: {sources: [{serviceAccountToken: {audience: broker.example, path: token}}]}}
  - {name: other, projected: {sources: [{serviceAccountToken: {audience: other.example, path: token}}]}}
  - {name: spiffe, csi: {driver: csi.spiffe.io}}
  - {name: work, emptyDir: {}}
"""


@pytest.mark.parametrize("path", OWN, ids=lambda path: path.name)
def test_g57_the_manifests_of_robin_have_no_finding(path: Path) -> None:
    assert check_manifest(path.read_bytes(), path.name).findings == ()


def test_g57_the_pods_with_a_program_are_looked_at() -> None:
    looked_at = {path.name for path in OWN if check_manifest(path.read_bytes(), path.name).pods}
    assert looked_at == {"sidecar.yaml", "sidecar-spiffe.yaml", "job.yaml", "job-classic.yaml", "pod.yaml"}


@pytest.mark.parametrize(
    ("old", "new", "found"),
    [
        ("", "", []),
        ("{name: work, mountPath: /work}", "{name: tokens, mountPath: /t}", [(6, "identity_volume_shared")]),
        ("{name: work, mountPath: /work}", "{name: id, mountPath: /t}", [(6, "identity_volume_shared")]),
        ("{name: work, mountPath: /work}", "{name: more, mountPath: /t}", [(6, "identity_volume_shared")]),
        ("{name: work, mountPath: /work}", "{name: spiffe, mountPath: /t}", [(6, "identity_volume_shared")]),
        ("{name: work, mountPath: /work}", "{name: other, mountPath: /t}", []),
        ("    env: [{name: ROBIN_TOKEN_FILE, value: /id/a/token}]", "    args: [--token-file=/id/token]", [(6, "identity_volume_shared")]),
        ("    env: [{name: ROBIN_TOKEN_FILE, value: /id/a/token}]", "    args: [--spiffe-socket, unix:///id/a/s]", []),
        ("runAsUser: 20001", "runAsUser: 10001", [(6, "same_user")]),
        ("securityContext: {runAsUser: 20001}, ", "", []),
        ("    securityContext: {runAsUser: 10001}\n", "", []),
        ("  containers:", "  securityContext: {runAsUser: 10001}\n  containers:", []),
        ("  containers:", "  shareProcessNamespace: true\n  containers:", [(5, "process_namespace_shared")]),
        ("  containers:", "  hostPID: yes\n  containers:", [(5, "process_namespace_shared")]),
        ("  automountServiceAccountToken: false\n", "", [(4, "token_automounted")]),
        ("automountServiceAccountToken: false", "automountServiceAccountToken: true", [(4, "token_automounted")]),
        ("automountServiceAccountToken: false", 'automountServiceAccountToken: "false"', [(4, "token_automounted")]),
        ("image: registry.example/robin:1", "image: registry.example/ours@sha256:00", []),
        ("kind: Pod\nspec:", "kind: Pod\nspec: {}\nspec:", [(4, "yaml_invalid")]),
        ("  containers:", "  <<: {hostPID: true}\n  containers:", [(5, "yaml_invalid")]),
        ("  containers:", "  {{ .Values.more }}\n  containers:", [(6, "yaml_invalid")]),
    ],
)
def test_g57_each_point_is_found_at_its_place(old: str, new: str, found: list[tuple[int, str]]) -> None:
    text = POD.replace(old, new, 1)
    assert [(one.at.line, one.code) for one in check_manifest(text.encode(), "pod.yaml").findings] == found


def test_g57_users_that_are_written_nowhere_are_a_finding() -> None:
    text = POD.replace("securityContext: {runAsUser: 20001}, ", "").replace("    securityContext: {runAsUser: 10001}\n", "")
    assert [one.code for one in check_manifest(text.encode(), "pod.yaml").findings] == ["same_user"]


@pytest.mark.parametrize("image", ["registry.example/robin-agent:1", "robinson"])
def test_g57_a_program_whose_name_begins_as_robins_is_a_program(image: str) -> None:
    text = POD.replace("name: app, image: app", f"name: robin-agent, image: {image}").replace("runAsUser: 20001", "runAsUser: 10001")
    assert [one.code for one in check_manifest(text.encode(), "pod.yaml").findings] == ["same_user"]


def test_g57_pods_stand_in_templates_and_lists_too() -> None:
    pod = POD.partition("spec:\n")[2].replace("automountServiceAccountToken: false", "hostPID: true")
    indented = "".join(f"        {line}\n" for line in pod.splitlines())
    cron = f"kind: CronJob\nspec:\n  jobTemplate:\n    spec:\n      template:\n       spec:\n{indented}"
    listed = json.dumps({"kind": "List", "items": [{"kind": "Deployment", "spec": {"template": {"spec": {"hostPID": True}}}}]})
    checked = check_manifest(f"{cron}---\n---\n{listed}\n".encode(), "all.yaml")
    assert sorted(one.code for one in checked.findings) == ["process_namespace_shared", "token_automounted"]
    assert (checked.pods, checked.alone, checked.others) == (1, 0, 1)


@pytest.mark.parametrize(
    "content", [b"\xff\xfe\x00", b"[" * 2000, b"a: &a [*a]", b"kind: List\nitems: &a [*a]", b"---\n" * 5000, b"kind: Pod\nspec: 3", b""]
)
def test_hostile_files_end_in_no_traceback(content: bytes) -> None:
    assert check_manifest(content, "x").pods == 0


def test_findings_are_printed_one_a_line_and_end_with_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good, bad = tmp_path / "good.yaml", tmp_path / "bad.yaml"
    good.write_text(POD)
    bad.write_text(POD.replace("  containers:", "  hostPID: true\n  containers:"))
    assert check_manifests([str(good)], as_json=False) == 0
    assert capsys.readouterr().out == f"ok: {good}: 1 pod(s) with Robin beside a program, 0 with Robin alone, 0 without\n"
    assert check_manifests([str(good), str(bad), str(tmp_path / "none")], as_json=False) == 2
    err = capsys.readouterr().err.splitlines()
    assert err[0].startswith(f"{bad}:5:12: error: process_namespace_shared: hostPID lets the programs of this pod see")
    assert err[1].startswith(f"{tmp_path}/none:1:1: error: manifest_unreadable: ")
    assert check_manifests([str(bad)], as_json=True) == 2
    assert json.loads(capsys.readouterr().out)["files"][str(bad)] == {"shared_pods": 1, "robin_pods": 0, "other_pods": 0}

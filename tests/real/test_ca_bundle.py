"""`robin ca` at a real API server: server-side apply with a ServiceAccount's three rights, what is kept, and the Secret (item E67)."""

from pathlib import Path
from typing import Any

import pytest
from tests.cli.commands.test_ca import ca, names
from tests.real.parts.kube import API_AUDIENCE, Cluster

from robin.cli.main import main

pytestmark = pytest.mark.real

PLACE = "/api/v1/namespaces/trust/configmaps/robin-trust"


def test_e67_a_bundle_is_applied_by_an_account_that_may_do_no_more(
    kube: Cluster, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kube.create_namespace("trust")
    kube.create_service_account("robin-trust", namespace="trust")
    token, server_ca = tmp_path / "sa-token", tmp_path / "server-ca.crt"
    token.write_text(kube.mint("robin-trust", audiences=[API_AUDIENCE], namespace="trust").token)
    server_ca.write_bytes(kube.ca_file.read_bytes())
    one, other = ca(tmp_path, "one"), ca(tmp_path, "other")
    common = ["--keep", "--configmap", "trust/robin-trust", "--server", kube.url, "--token-file", str(token), "--server-ca", str(server_ca)]

    def bundle(*words: str) -> int:
        return main(["ca", "bundle", *common, *words])

    def read() -> dict[str, Any]:
        return kube.request("GET", PLACE)

    assert bundle("--ca", str(one)) == 1
    assert "configmaps" in capsys.readouterr().err  # the server's own words name the missing right
    rbac = "/apis/rbac.authorization.k8s.io/v1/namespaces/trust"
    rules = [{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["get", "patch", "create"]}]
    kube.request("POST", f"{rbac}/roles", {"metadata": {"name": "trust"}, "rules": rules})
    subject = {"kind": "ServiceAccount", "name": "robin-trust", "namespace": "trust"}
    role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "trust"}
    kube.request("POST", f"{rbac}/rolebindings", {"metadata": {"name": "trust"}, "subjects": [subject], "roleRef": role})

    assert bundle("--ca", str(one), "--public-roots") == 0
    made = read()
    assert names(made["data"]["ca.crt"]) == ["one"]
    assert made["data"]["bundle.crt"].startswith(made["data"]["ca.crt"])
    (managed,) = made["metadata"]["managedFields"]
    assert (managed["manager"], managed["operation"]) == ("robin-ca-bundle", "Apply")
    assert bundle("--ca", str(other), "--public-roots") == 0
    assert names(read()["data"]["ca.crt"]) == ["other", "one"]
    version = read()["metadata"]["resourceVersion"]
    assert bundle("--ca", str(other), "--public-roots") == 0
    assert read()["metadata"]["resourceVersion"] == version  # the hourly job changes nothing where nothing has changed

    capsys.readouterr()
    assert main(["ca", "init", "--secret", "12345", "-n", "trust"]) == 0
    manifest = capsys.readouterr().out
    assert kube.dry_run(manifest) == ["secret/12345 serverside-applied (server dry run)"]

"""The control plane works: tokens are minted, judged online and offline, written as the kubelet writes; kubectl dry-runs manifests."""

import json
import subprocess
import time
from pathlib import Path

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from tests.real.parts import gobuild, versions
from tests.real.parts.kube import Cluster, KubeRefused, from_base64url
from tests.real.parts.process import poll

pytestmark = pytest.mark.real

AUDIENCE = "https://broker.test"
POD = """\
apiVersion: v1
kind: Pod
metadata: {name: dry, namespace: dry-run}
spec:
  containers: [{name: app, image: example.test/app}]
"""


def claims(token: str) -> dict[str, object]:
    found: dict[str, object] = json.loads(from_base64url(token.split(".")[1]))
    return found


def check_offline(token: str, jwks: dict[str, list[dict[str, str]]]) -> None:
    """InvalidSignature unless the key of that id in the JWKS made the signature."""
    signed, _, signature = token.rpartition(".")
    kid = json.loads(from_base64url(token.split(".", 1)[0]))["kid"]
    (key,) = (one for one in jwks["keys"] if one["kid"] == kid)
    n, e = (int.from_bytes(from_base64url(key[part]), "big") for part in ("n", "e"))
    rsa.RSAPublicNumbers(e, n).public_key().verify(from_base64url(signature), signed.encode(), padding.PKCS1v15(), hashes.SHA256())


def test_the_programs_are_the_pinned_versions(kube: Cluster) -> None:
    assert kube.request("GET", "/version")["gitVersion"] == f"v{versions.KUBERNETES}"
    assert json.loads(kube.kubectl("version", "--client", "-o", "json").stdout)["clientVersion"]["gitVersion"] == f"v{versions.KUBERNETES}"
    etcd = subprocess.run([gobuild.find(gobuild.ETCD) / "etcd", "--version"], capture_output=True, text=True, check=True).stdout
    assert f"etcd Version: {versions.ETCD}" in etcd


def test_a_minted_token_is_judged_by_tokenreview_and_by_the_discovered_keys(kube: Cluster) -> None:
    kube.create_service_account("minted")
    token = kube.mint("minted", audiences=[AUDIENCE]).token
    review = kube.review(token, audiences=[AUDIENCE])
    assert (review.authenticated, review.username, review.audiences) == (True, "system:serviceaccount:default:minted", (AUDIENCE,))
    assert not kube.review(token, audiences=["https://elsewhere.test"]).authenticated
    assert not kube.review(token).authenticated, "not meant for the API server"
    assert kube.discovery()["issuer"] == kube.issuer == claims(token)["iss"]
    check_offline(token, kube.jwks())
    forged = f"{token.rpartition('.')[0]}.{kube.resign(token, exp=0).rpartition('.')[2]}"
    with pytest.raises(InvalidSignature):
        check_offline(forged, kube.jwks())


def test_tokenrequest_refuses_a_lifetime_under_ten_minutes(kube: Cluster) -> None:
    kube.create_service_account("hasty")
    with pytest.raises(KubeRefused, match="10 minutes") as refused:
        kube.mint("hasty", audiences=[AUDIENCE], lifetime_s=599)
    assert refused.value.code == 422


def test_tokenreview_takes_a_token_until_a_minute_after_its_expiry(kube: Cluster) -> None:
    """The API server's JWT library allows for clocks a minute apart; its cache may add ten seconds."""
    kube.create_service_account("late")
    minted = kube.mint("late", audiences=[AUDIENCE]).token
    expired_at = int(time.time()) - 57
    token = kube.resign(minted, exp=expired_at)
    check_offline(token, kube.jwks())
    assert kube.review(token, audiences=[AUDIENCE]).authenticated
    assert not kube.review(kube.resign(minted, exp=expired_at - 10), audiences=[AUDIENCE]).authenticated
    poll(lambda: not kube.review(token, audiences=[AUDIENCE]).authenticated, timeout_s=90, every_s=0.2, what="the token to be refused")
    assert time.time() >= expired_at + 60


def test_the_token_of_a_deleted_account_is_refused(kube: Cluster) -> None:
    kube.create_service_account("doomed")
    token = kube.mint("doomed", audiences=[AUDIENCE]).token
    assert kube.review(token, audiences=[AUDIENCE]).authenticated
    kube.delete_service_account("doomed")
    poll(lambda: not kube.review(token, audiences=[AUDIENCE]).authenticated, timeout_s=90, every_s=0.2, what="the token to be refused")


def test_rbac_is_on(kube: Cluster) -> None:
    kube.create_service_account("nobody")
    token = kube.mint("nobody", audiences=["https://kubernetes.default.svc"]).token
    with pytest.raises(KubeRefused, match="forbidden") as refused:
        kube.request("GET", "/api/v1/namespaces/default/secrets", token=token)
    assert refused.value.code == 403


def test_kubectl_dry_runs_on_the_server_and_keeps_nothing(kube: Cluster) -> None:
    kube.create_namespace("dry-run")
    assert kube.dry_run(POD) == ["pod/dry serverside-applied (server dry run)"]
    with pytest.raises(KubeRefused, match="not found") as absent:
        kube.request("GET", "/api/v1/namespaces/dry-run/pods/dry")
    assert absent.value.code == 404
    with pytest.raises(KubeRefused, match="contaners: field not declared in schema"):
        kube.dry_run(POD.replace("containers:", "contaners:"))


def test_the_kubelets_writer_swings_the_token_over_by_one_rename(kube: Cluster, tmp_path: Path) -> None:
    kube.project(tmp_path, "first")
    folder = (tmp_path / "..data").readlink()
    assert (tmp_path / "token").readlink() == Path("..data/token")
    assert (tmp_path / "token").read_text() == "first"
    kube.project(tmp_path, "second")
    assert (tmp_path / "token").read_text() == "second"
    assert (tmp_path / "..data").readlink() != folder
    assert not (tmp_path / folder).exists()

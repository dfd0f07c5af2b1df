"""TokenRequest and RBAC of `robin kube` against the real API server: what it asks for, and what each refusal of the cluster becomes."""

import json
import time

import pytest
from tests.real.parts.kube import API_AUDIENCE, Cluster, KubeRefused
from tests.real.parts.kube_plane import RBAC, Bed, kube_plane
from tests.real.parts.raw_agent import Reply, ask_all

from robin.testing.waiting import eventually

pytestmark = pytest.mark.real

MINTS = {"apiGroups": [""], "resources": ["serviceaccounts/token"], "verbs": ["create"]}


async def get_pods(bed: Bed) -> Reply:
    (reply,) = await ask_all(bed, [("GET", f"/api/v1/namespaces/{bed.shop}/pods", ())])
    return reply


def code_of(reply: Reply) -> str:
    return next((one["message"] for one in json.loads(reply.body)["details"]["causes"] if one["reason"] == "RobinCode"), "")


async def test_a_soft_ttl_of_a_minute_is_asked_as_ten_and_the_cluster_grants_what_the_record_says(kube: Cluster):
    async with kube_plane(kube, flags=("--jit-ttl", "60s")) as bed:
        assert (await get_pods(bed)).status == 200
        minted = await bed.wait_record("token.minted")
        assert (minted["asked_s"], minted["granted_s"], minted["effective_s"]) == (600, 600, 60)
        with pytest.raises(KubeRefused, match="10 minutes"):
            kube.mint("robin-agent", namespace=bed.system, audiences=[API_AUDIENCE], lifetime_s=300)


async def test_refusals_of_the_cluster_become_those_of_the_specification(kube: Cluster):
    async with kube_plane(kube) as bed:
        roles = f"{RBAC}/namespaces/{bed.system}/rolebindings/robin-minter"
        assert (await get_pods(bed)).status == 200
        binding = kube.request("GET", roles)
        await bed.change("DELETE", roles)
        refused = await _until(bed, "kube.mint_forbidden")
        assert refused.status == 500
        assert "resourceNames [robin-agent]" in json.loads(refused.body)["message"]
        await bed.change(
            "POST",
            f"{RBAC}/namespaces/{bed.system}/rolebindings",
            {key: binding[key] for key in ("roleRef", "subjects")} | {"metadata": {"name": "robin-minter"}},
        )
        await eventually(lambda: _is_served(bed), every_s=0.1)
        await bed.change("DELETE", f"/api/v1/namespaces/{bed.system}/serviceaccounts/robin-agent")
        refused = await _until(bed, "kube.mint_no_account")
        assert refused.status == 500


async def _is_served(bed: Bed) -> bool:
    return (await get_pods(bed)).status == 200


async def _until(bed: Bed, code: str) -> Reply:
    """Ask until this is the refusal: the caches of the API server see a change a moment later."""
    found: list[Reply] = []

    async def refused() -> bool:
        found.append(await get_pods(bed))
        return found[-1].status != 200 and code_of(found[-1]) == code

    await eventually(refused, every_s=0.1, what=code)
    return found[-1]


async def test_a_token_for_another_audience_is_502_and_never_401(kube: Cluster):
    async with kube_plane(kube, jit={"audiences": ["wrong"]}) as bed:
        reply = await get_pods(bed)
        assert (reply.status, code_of(reply)) == (502, "kube.upstream_unauthorized")


async def test_deleting_the_bound_secret_revokes_and_making_it_again_mends(kube: Cluster):
    async with kube_plane(kube, jit={"bind_secret": "handle"}, wait="startup_checks") as bed:
        assert "S5:robin-agent" in (await bed.robin.event("startup_checks"))["detail"]
        await bed.change("POST", f"/api/v1/namespaces/{bed.system}/secrets", {"metadata": {"name": "handle"}})
        await bed.robin.event("started")
        assert (await get_pods(bed)).status == 200
        assert (await bed.wait_record("token.minted"))["bound"] == "handle"
        await bed.change("DELETE", f"/api/v1/namespaces/{bed.system}/secrets/handle")
        assert (await _until(bed, "kube.revoked")).status == 403
        await bed.change("POST", f"/api/v1/namespaces/{bed.system}/secrets", {"metadata": {"name": "handle"}})
        await eventually(lambda: _is_served(bed), every_s=0.1)


async def test_a_bootstrap_token_that_expired_is_refused_and_a_new_one_is_used_without_a_restart(kube: Cluster):
    async with kube_plane(kube) as bed:
        token = (bed.folder / "bootstrap").read_text()
        (bed.folder / "bootstrap").write_text(kube.resign(token, exp=int(time.time()) - 100))
        assert (await _until(bed, "kube.bootstrap_rejected")).status == 500
        (bed.folder / "bootstrap").write_text(token)
        assert (await get_pods(bed)).status == 200  # the 401 made it look at the file


TOO_MUCH = [
    ("S3", "robin-minter", MINTS, "--unsafe-broad-minter"),
    ("S4", "robin-agent", MINTS, "--unsafe-self-minting"),
    ("S4", "robin-agent", {**MINTS, "resourceNames": ["robin-agent"]}, "--unsafe-self-minting"),
]


@pytest.mark.parametrize(("check", "account", "rule", "flag"), TOO_MUCH, ids=["S3", "S4", "S4-by-name"])
async def test_an_account_that_could_mint_its_successors_ends_the_start(
    kube: Cluster, check: str, account: str, rule: dict[str, object], flag: str
):
    async with kube_plane(kube, wait="", extra=(account, rule)) as bed:
        assert await bed.robin.returned() == 1
        assert bed.robin.stderr[-1].startswith(f"robin: {check}: ")
    async with kube_plane(kube, extra=(account, rule), flags=(flag,)) as bed:
        assert (await get_pods(bed)).status == 200


async def test_a_client_certificate_mints_and_the_cluster_still_sees_the_minted_account(kube: Cluster):
    user = "masters"
    leaf = kube.authority.issue(user)
    bind_user(kube, user)
    settings = {"bootstrap": {"cert_file": str(leaf.certificate_file), "key_file": str(leaf.key_file)}}
    async with kube_plane(kube, cluster_settings=settings, flags=("--unsafe-broad-minter",)) as bed:
        assert (await get_pods(bed)).status == 200
        events = kube.audit_events(bed.audit_from)
        pods = [one for one in events if f"/namespaces/{bed.shop}/pods" in one["requestURI"]]
        assert [one["user"]["username"] for one in pods] == [bed.account]
        assert user in {one["user"]["username"] for one in events if one["requestURI"].endswith("/robin-agent/token")}


def bind_user(kube: Cluster, user: str) -> None:
    """All rights for a user of a client certificate, as `system:masters` has them."""
    role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"}
    subject = {"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": user}
    kube.request("POST", f"{RBAC}/clusterrolebindings", {"metadata": {"name": user}, "roleRef": role, "subjects": [subject]})

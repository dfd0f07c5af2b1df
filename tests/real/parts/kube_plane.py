"""`robin kube` in front of the real API server: two accounts with the RBAC of the reference, a policy, kubectl as the agent."""

import asyncio
import contextlib
import json
import secrets
import tempfile
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from tests.real.parts.kube import API_AUDIENCE, Cluster
from tests.real.parts.program import Ended, run

from robin.cli.main import main
from robin.planes.kube.state import StateFolder
from robin.testing.process import RobinProcess
from robin.testing.waiting import eventually
from robin.transport.clock import SystemClock

MANIFEST = Path(__file__).resolve().parents[3] / "deploy" / "kubernetes" / "kube" / "plane.yaml"
RBAC = "/apis/rbac.authorization.k8s.io/v1"
EVERYTHING: dict[str, Any] = {
    "name": "all",
    "namespaces": ["*"],
    "cluster_scope": True,
    "nonresource": ["*"],
    "tiers": dict.fromkeys("01234", "allow"),
}
READ: dict[str, Any] = {"apiGroups": ["", "apps"], "resources": ["*"], "verbs": ["get", "list", "watch"]}


@dataclass(slots=True)
class Bed:
    """One Robin, its accounts in `system`, its agent at work in `shop`; its events of the cluster audit begin at `audit_from`."""

    cluster: Cluster
    folder: Path
    system: str
    shop: str
    robin: RobinProcess
    audit_from: int
    kubeconfigs: dict[str, Path] = field(default_factory=dict)

    @property
    def url(self) -> str:
        listening = next(event for event in self.robin.events if event.get("event") == "listening")
        return f"https://{listening['listen'][0]}"

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    @property
    def account(self) -> str:
        return f"system:serviceaccount:{self.system}:robin-agent"

    @property
    def state(self) -> StateFolder:
        return StateFolder(self.folder / "state", SystemClock().wall())

    def kubeconfig(self, agent: str) -> Path:
        """What `robin kubeconfig` writes for an agent."""
        if agent not in self.kubeconfigs:
            path = self.folder / f"{agent}.kubeconfig"
            words = ["kubeconfig", "--agent", agent, "--server", self.url, "--namespace", self.shop, "--state-dir", f"{self.folder}/state"]
            assert main([*words, "--out", str(path)]) == 0
            self.kubeconfigs[agent] = path
        return self.kubeconfigs[agent]

    async def kubectl(self, *words: str, agent: str = "a", stdin: str = "", codes: tuple[int, ...] = (0,)) -> Ended:
        """The real kubectl as the agent, to its end."""
        return await run(self.kubectl_command(*words, agent=agent), home=self.folder, feed=stdin.encode(), codes=codes)

    def kubectl_command(self, *words: str, agent: str = "a") -> list[str | Path]:
        return [self.cluster.programs / "kubectl", "--kubeconfig", str(self.kubeconfig(agent)), *words]

    def records(self, event: str | None = None) -> list[dict[str, Any]]:
        """Robin's own audit."""
        found = [json.loads(line) for line in (self.folder / "state" / "audit.jsonl").read_text().splitlines()]
        return [one for one in found if event is None or one["event"] == event]

    async def wait_record(self, event: str, **fields: object) -> dict[str, Any]:
        """The first record of an event with these fields, once it is there."""

        def look() -> list[dict[str, Any]]:
            return [one for one in self.records(event) if fields.items() <= one.items()]

        return (await eventually(look))[0]

    def seen(self) -> list[dict[str, Any]]:
        """What the cluster's audit log has since this bed began, of Robin's accounts."""
        mine = f"system:serviceaccount:{self.system}:"
        return [one for one in self.cluster.audit_events(self.audit_from) if one["user"]["username"].startswith(mine)]

    async def change(self, method: str, path: str, body: object = None) -> None:
        """A call of the administrator."""
        await asyncio.to_thread(self.cluster.request, method, path, body)


@contextlib.asynccontextmanager
async def kube_plane(
    cluster: Cluster,
    *,
    rules: Sequence[dict[str, Any]] = (EVERYTHING,),
    rights: Sequence[dict[str, Any]] = (READ,),
    runbooks: dict[str, Any] | None = None,
    flags: tuple[str, ...] = (),
    wait: str = "started",
    extra: tuple[str, dict[str, Any]] | None = None,
    jit: dict[str, Any] | None = None,
    cluster_settings: dict[str, Any] | None = None,
    **changed: Any,
) -> AsyncIterator[Bed]:
    """`rules`: of the agent `a` in Robin's policy; `rights`: RBAC rules of the minted account in the namespace `shop`.

    `extra`: an account, and an RBAC rule that it has beside its own: everywhere for the minter, in `system` for the agent.
    `jit` and `cluster_settings` are keys of `credentials.jit` and `cluster`.
    """
    word = secrets.token_hex(4)
    system, shop = f"robin-{word}", f"shop-{word}"
    token = await asyncio.to_thread(_prepare, cluster, system, shop, rights)
    if extra is not None:
        account, rule = extra
        place = system if account == "robin-agent" else ""
        await asyncio.to_thread(bind, cluster, place, f"extra-{word}", f"{system}:{account}", [rule])
    with tempfile.TemporaryDirectory(prefix="robin-kube-") as name:
        folder = Path(name)
        (folder / "bootstrap").write_text(token)
        policy = {"version": 1, "agents": {"a": {"identities": ["token"], "rules": list(rules)}}, "runbooks": runbooks or {}}
        (folder / "policy.yaml").write_text(json.dumps(policy))
        credentials = {"service_account": "robin-agent", "namespace": system, "timeout": "30s", **(jit or {})}
        api = {"url": cluster.url, "ca_file": str(cluster.ca_file), "bootstrap": {"token_file": f"{folder}/bootstrap"}}
        section: dict[str, Any] = {
            "listen": "127.0.0.1:0",
            "state_dir": f"{folder}/state",
            "cluster": {**api, **(cluster_settings or {})},
            "credentials": {"jit": credentials},
            "policy_file": f"{folder}/policy.yaml",
            "admin": {"listen": "127.0.0.1:0"},
            **changed,
        }
        (folder / "robin.yaml").write_text(json.dumps({"version": 1, "kube": section}))
        audit_from = cluster.audit_file.stat().st_size
        async with RobinProcess("kube", "--config", f"{folder}/robin.yaml", *flags) as robin:
            if wait:
                await robin.event(wait)
            yield Bed(cluster, folder, system, shop, robin, audit_from)


def _prepare(cluster: Cluster, system: str, shop: str, rights: Sequence[dict[str, Any]]) -> str:
    """Namespaces, the two accounts and their RBAC. Returns a token of the minter."""
    cluster.create_namespace(system)
    cluster.create_namespace(shop)
    for account in ("robin-minter", "robin-agent"):
        cluster.create_service_account(account, namespace=system)
    role = next(one for one in yaml.safe_load_all(MANIFEST.read_text()) if one["kind"] == "Role")
    bind(cluster, system, "robin-minter", f"{system}:robin-minter", role["rules"])
    bind(cluster, shop, "robin-agent", f"{system}:robin-agent", rights)
    return cluster.mint("robin-minter", audiences=[API_AUDIENCE], namespace=system).token


def bind(cluster: Cluster, namespace: str, name: str, account: str, rules: Sequence[dict[str, Any]]) -> None:
    """A Role with these rules for an account `NAMESPACE:NAME`; cluster-wide where `namespace` is empty."""
    home, _, account_name = account.partition(":")
    place, kind = (f"{RBAC}/namespaces/{namespace}/", "") if namespace else (f"{RBAC}/cluster", "Cluster")
    cluster.request("POST", f"{place}roles", {"metadata": {"name": name}, "rules": list(rules)})
    role = {"apiGroup": "rbac.authorization.k8s.io", "kind": f"{kind}Role", "name": name}
    subject = {"kind": "ServiceAccount", "name": account_name, "namespace": home}
    cluster.request("POST", f"{place}rolebindings", {"metadata": {"name": name}, "roleRef": role, "subjects": [subject]})

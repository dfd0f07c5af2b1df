"""What is checked of the cluster before a request is served: it answers, each account can be minted, and no account may mint too much.

S3 and S4 keep a stolen credential from minting its own successors; they end the start, unless an --unsafe flag says otherwise. While a
check has not passed, nothing is minted for an agent.
"""

import asyncio
from collections.abc import Callable
from typing import Final

from robin.model.faults import Fault
from robin.model.secret import Secret
from robin.planes.kube.cluster import ClusterCalls, NoBootstrap, read_object
from robin.planes.kube.minting import Minter
from robin.wire.strict_json import JsonObject

RETRY_S: Final = 5.0
_ELSEWHERE: Final = "kube-system"
_TIMEOUT_S: Final = 5.0


class Dangerous(Exception):
    """S3 or S4 failed: the message is for standard error."""


class StartupChecks:
    """`accounts()` are those of the policy, with the Secret of each (empty: none). `failures` name the checks that have not passed."""

    __slots__ = ("_accounts", "_broad", "_calls", "_minter", "_namespace", "_self_minting", "failures")

    def __init__(
        self,
        calls: ClusterCalls,
        minter: Minter,
        accounts: Callable[[], list[tuple[str, str]]],
        *,
        unsafe_broad_minter: bool,
        unsafe_self_minting: bool,
    ) -> None:
        self._calls = calls
        self._minter = minter
        self._accounts = accounts
        self._namespace = minter.settings.namespace
        self._broad = unsafe_broad_minter
        self._self_minting = unsafe_self_minting
        self.failures: tuple[str, ...] = ("S1",)

    @property
    def passed(self) -> bool:
        """Whether tokens may be minted for agents."""
        return not self.failures

    async def run(self) -> None:
        """Run every check once. Raises Dangerous."""
        try:
            self.failures = tuple(await self._find())
        except (Fault, NoBootstrap) as error:
            self.failures = ("S1" if isinstance(error, Fault) else "S2",)

    async def _find(self) -> list[str]:
        version = await self._calls.send("GET", "/version", None, audit_id="", deadline_at=_deadline())
        if version.status != 200:
            return ["S1"]
        if not self._broad and await self._may_mint(_ELSEWHERE, None):
            raise Dangerous(
                f"S3: Robin's account may create serviceaccounts/token in {_ELSEWHERE}; bind it by a Role with resourceNames in "
                f"{self._namespace}, or start with --unsafe-broad-minter"
            )
        failures = []
        for account, secret in self._accounts():
            try:
                minted = await self._minter.mint(account=account, secret=secret, audit_id="")
            except Fault as fault:
                failures.append(f"S5:{account}" if fault.code == "kube.revoked" else f"S2:{account}:{fault.code}")
                continue
            if not self._self_minting and await self._may_mint(self._namespace, minted.authorization):
                raise Dangerous(
                    f"S4: the account {account} may create serviceaccounts/token in {self._namespace}; take that right away, "
                    "or start with --unsafe-self-minting"
                )
        return failures

    async def _may_mint(self, namespace: str, minted: Secret | None) -> bool:
        attributes: JsonObject = {"namespace": namespace, "verb": "create", "resource": "serviceaccounts", "subresource": "token"}
        review: JsonObject = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": attributes},
        }
        path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
        response = await self._calls.send("POST", path, review, audit_id="", deadline_at=_deadline(), minted=minted)
        if minted is not None and response.status == 401:
            return False  # a token that the cluster refuses can mint nothing, and no request will be served with it
        status = read_object(response).get("status")
        if response.status not in (200, 201) or not isinstance(status, dict) or not isinstance(status.get("allowed"), bool):
            raise Fault("kube.mint_unavailable", "startup: the cluster does not answer a SelfSubjectAccessReview")
        return status["allowed"] is True


def _deadline() -> float:
    return asyncio.get_running_loop().time() + _TIMEOUT_S

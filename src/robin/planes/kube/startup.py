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
_UNLISTED: Final = "robin-unlisted"  # no account has to have this name
_TIMEOUT_S: Final = 5.0


class Dangerous(Exception):
    """S3 or S4 failed: the message is for standard error."""


class StartupChecks:
    """`accounts()` are those of the policy, with the Secret of each (empty: none).

    `failures` name the checks that have not passed, `detail` has the cause and the fix of each. `warning`: what is wider than it needs to
    be, though nothing fails. An account that comes with a policy that is loaded later is checked then; until it has passed, nothing is
    minted for it.
    """

    __slots__ = ("_accounts", "_broad", "_calls", "_minter", "_namespace", "_self_minting", "_sound", "detail", "failures", "warning")

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
        self._sound: set[tuple[str, str]] = set()
        self.failures: tuple[str, ...] = ("S1",)
        self.detail = ""
        self.warning = ""

    @property
    def passed(self) -> bool:
        """Whether tokens may be minted for agents."""
        return not self.failures

    def is_sound(self, account: str, secret: str) -> bool:
        """Whether this account, with this Secret, has passed."""
        return (account, secret) in self._sound

    @property
    def unchecked(self) -> list[str]:
        """Accounts of the policy in force that have not passed."""
        return [account for account, secret in self._accounts() if not self.is_sound(account, secret)]

    async def run_for_new_accounts(self) -> None:
        """Check the accounts that have not passed. Raises Dangerous, Fault, NoBootstrap."""
        await self._check_accounts()

    async def run(self) -> None:
        """Run every check once. Raises Dangerous."""
        try:
            found = await self._find()
        except NoBootstrap:
            fix = "name one that can be read, or a client certificate by cluster.bootstrap.cert_file"
            found = [("S2:no_token", f"the file {{bootstrap_token_file}} holds no token of Robin's own; {fix}")]
        except Fault as fault:
            found = [(f"S1:{fault.code}", f"the API server does not answer: {fault.detail}; check cluster.url and cluster.ca_file")]
        self.failures = tuple(code for code, _ in found)
        self.detail = "; ".join(f"{code}: {why}" for code, why in found)

    async def _find(self) -> list[tuple[str, str]]:
        version = await self._calls.send("GET", "/version", None, audit_id="", deadline_at=_deadline())
        if version.status != 200:
            why = "Robin's own credential is refused; renew it" if version.status == 401 else "check cluster.url, and the API server"
            return [(f"S1:{version.status}", f"the API server answered {version.status} to GET /version: {why}")]
        if not self._broad and await self._may_mint(_ELSEWHERE, None):
            raise Dangerous(
                f"S3: Robin's account may create serviceaccounts/token in {_ELSEWHERE}; bind it by a Role with resourceNames in "
                f"{self._namespace}, or start with --unsafe-broad-minter"
            )
        self.warning = ""
        if await self._may_mint(self._namespace, None, name=_UNLISTED):
            self.warning = f"Robin's account may mint for every account in {self._namespace}; list them by resourceNames in its Role"
        return await self._check_accounts()

    async def _check_accounts(self) -> list[tuple[str, str]]:
        """S2, S4 and S5 of each account that has not passed. Raises Dangerous once all are checked, so that one holds up no other."""
        failures: list[tuple[str, str]] = []
        danger: Dangerous | None = None
        accounts = self._accounts()
        names = ["", *dict.fromkeys(account for account, _ in accounts)]  # a rule with resourceNames allows nothing without a name
        for account, secret in accounts:
            if self.is_sound(account, secret):
                continue
            try:
                minted = await self._minter.mint(account=account, secret=secret, audit_id="")
            except Fault as fault:
                failures.append((f"S5:{account}" if fault.code == "kube.revoked" else f"S2:{account}:{fault.code}", fault.detail))
                continue
            for name in () if self._self_minting else names:
                if await self._may_mint(self._namespace, minted.authorization, name=name):
                    danger = danger or Dangerous(
                        f"S4: the account {account} may create serviceaccounts/token in {self._namespace}; take that right away, "
                        "or start with --unsafe-self-minting"
                    )
                    break
            else:
                self._sound.add((account, secret))
        if danger is not None:
            raise danger
        return failures

    async def _may_mint(self, namespace: str, minted: Secret | None, *, name: str = "") -> bool:
        attributes: JsonObject = {"namespace": namespace, "verb": "create", "resource": "serviceaccounts", "subresource": "token"}
        if name:
            attributes["name"] = name
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

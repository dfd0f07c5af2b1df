"""One generation of the gateway: what its settings come to and a reload replaces, built whole before any request meets it.

What lasts longer than a generation (connections, key sets, tokens, the leaves of an unchanged CA, counters) is handed on from the one
before. Building one takes no loop and waits for nothing, so that it can be done in a thread.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

from robin.app.gateway_outbound import Outbound
from robin.app.grants import IdentitySources, bind
from robin.app.plane import Parts
from robin.config.gateway_load import LoadedGateway
from robin.grants.bound import BoundGrant
from robin.identity.identities import Identities
from robin.identity.issuer import IssuerClient
from robin.identity.trust.key_sources import KeySource, build_key_source
from robin.identity.trust.verify import TokenVerifier
from robin.model.message import RequestHead
from robin.model.verdict import LocalResponse
from robin.planes.gateway.authority import BridgeAuthority
from robin.planes.gateway.metrics import GatewayMetrics
from robin.planes.gateway.policy import build_policy
from robin.planes.gateway.settings import GatewaySettings
from robin.planes.gateway.slots import Slots
from robin.policy.gateway import GatewayPolicy
from robin.policy.reverse import ReversePolicy


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Generation:
    """`keys` and `verifiers` are by the name of the issuer of callers' tokens.

    `identities` are those of the settings; `bound` the grants by the names that routes have. `authority` None: nothing is bridged.
    """

    number: int
    loaded: LoadedGateway
    loaded_at: float
    settings: GatewaySettings
    policy: GatewayPolicy
    outbound: Outbound
    authority: BridgeAuthority | None
    slots: Slots
    keys: Mapping[str, KeySource]
    verifiers: Mapping[str, TokenVerifier]
    identities: Identities
    bound: Mapping[str, BoundGrant]

    @property
    def routes(self) -> ReversePolicy:
        """The policy of the reverse listeners."""
        reverse = self.policy.reverse
        assert reverse is not None
        return reverse


@dataclass(frozen=True, slots=True, kw_only=True)
class Builder:
    """Builds generations. `own_sources`: identities that the process has, in place of those of the settings.

    `local` is what `GatewayPolicy` has by that name.
    """

    parts: Parts
    metrics: GatewayMetrics
    key_client: IssuerClient
    own_sources: IdentitySources | None
    local: Callable[[RequestHead], LocalResponse | None]

    def build(self, loaded: LoadedGateway, outbound: Outbound, identities: Identities, before: Generation | None = None) -> Generation:
        """The generation of these settings, which replaces `before`. Raises CaInvalid, TooManyIdentities."""
        settings, parts = loaded.settings, self.parts
        assert settings is not None
        number = 1 if before is None else before.number + 1
        keys = self._keys(settings, before)
        verifiers = {
            name: before.verifiers[name]
            if before is not None and before.keys.get(name) is keys[name] and before.settings.issuers[name].trust == issuer.trust
            else TokenVerifier(issuer.trust, keys[name], parts.clock.wall)
            for name, issuer in settings.issuers.items()
        }
        return Generation(
            number=number,
            loaded=loaded,
            loaded_at=parts.clock.wall(),
            settings=settings,
            policy=build_policy(settings, number, local=self.local),
            outbound=outbound,
            authority=self._authority(settings, before),
            slots=Slots(settings.bridge.slots, None if before is None else before.slots),
            keys=keys,
            verifiers=verifiers,
            identities=identities,
            bound=bind(settings.providers.grants, self.own_sources or identities, parts.clock),
        )

    def _keys(self, settings: GatewaySettings, before: Generation | None) -> dict[str, KeySource]:
        """The key sets; those of unchanged settings are kept, so that no caller waits for a fetch."""
        parts = self.parts
        kept = {} if before is None else {name: (issuer.trust.jwks, before.keys[name]) for name, issuer in before.settings.issuers.items()}
        build = partial(build_key_source, client=self.key_client, clock=parts.clock, entropy=parts.entropy, tasks=parts.tasks)
        found = {}
        for name, issuer in settings.issuers.items():
            jwks, source = kept.get(name, (None, None))
            found[name] = source if source is not None and jwks == issuer.trust.jwks else build(issuer.trust.jwks)
        return found

    def _authority(self, settings: GatewaySettings, before: Generation | None) -> BridgeAuthority | None:
        bridge, per_second = settings.bridge, settings.tunnels.mints_per_second
        if not bridge.sign_with:
            return None
        if before is not None and (bridge, per_second) == (before.settings.bridge, before.settings.tunnels.mints_per_second):
            return before.authority
        return BridgeAuthority(
            bridge.slots[bridge.sign_with],
            ttl_s=bridge.leaf_ttl_s,
            contexts=bridge.leaf_cache,
            per_second=per_second,
            wall=self.parts.clock.wall,
            before=None if before is None else before.authority,
        )

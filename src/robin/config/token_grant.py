"""The mapping `token_grant` of a profile -> a TokenGrant: the keys that all kinds share, its preset, and the keys of its kind."""

import math
import re
from typing import Final, cast

from robin.config.grant_kinds.catalog import KINDS
from robin.config.grant_kinds.kind import GrantKind, Reading
from robin.config.presets import NO_PRESET, PRESETS, Preset
from robin.config.profile_endpoints import EndpointReader
from robin.config.profile_keys import Findings, Keys
from robin.config.profile_parts import Override, TokenGrant
from robin.grants.settings import ClientAuth, Strictness

_URN: Final = re.compile(r"urn:[!-~]{1,256}")
_SCOPE: Final = re.compile(r"[!#-\[\]-~]{1,256}")  # RFC 6749 appendix A.4
_RESOURCE: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:[!-~]+")
_OF_CHAINS: Final = frozenset({"stages"})


class TokenGrantReader:
    """Judges token grants; notes everything that is wrong."""

    def __init__(self, findings: Findings, endpoints: EndpointReader) -> None:
        self._findings = findings
        self._endpoints = endpoints

    def read(self, keys: Keys, *, stage: int | None = None) -> TokenGrant:
        """One grant. `stage`: its place in a chain."""
        preset = PRESETS[keys.text("preset")] if keys.has("preset") else NO_PRESET
        name = keys.text("grant_type") if keys.has("grant_type") else preset.grant_type
        kind = KINDS[name]
        if kind.preset and preset is NO_PRESET:
            preset = PRESETS[kind.preset]
        self._refuse_keys_of_others(keys, kind)
        self._require(keys, kind, preset)
        stages: tuple[TokenGrant, ...] = ()
        if stage is None:
            stages = tuple(self.read(item, stage=at) for at, item in enumerate(keys.items("stages")))
        reading = Reading(keys=keys, findings=self._findings, stages=stages, stage=stage)
        endpoint = keys.text("token_endpoint") or preset.token_endpoint(keys)
        auth = keys.text("client_auth") if keys.has("client_auth") else preset.client_auth or kind.client_auth
        grant = TokenGrant(
            at=keys.at,
            endpoint_at=keys.place("token_endpoint"),
            kind=name,
            token_endpoint=endpoint,
            issuer=keys.plain(self._findings, "issuer"),
            audience=keys.plain(self._findings, "audience"),
            scopes=self._scopes(keys),
            resources=self._resources(keys),
            jwt_svid_audience=keys.plain(self._findings, "jwt_svid_audience"),
            assertion_type=self._assertion_type(keys, preset),
            client_auth=cast("ClientAuth", auth),
            client_id=keys.plain(self._findings, "client_id"),
            extra=self._extra(keys, kind),
            cap_s=math.inf if stage is not None else self._cap_s(keys),
            check_scope=cast("Strictness", keys.text("check_scope")),
            check_audience=cast("Strictness", keys.text("check_audience")),
            overrides=() if stage is not None else tuple(filter(None, map(self._override, keys.items("audience_overrides")))),
            options=kind.read(reading),
            preset=keys.text("preset") if keys.has("preset") else "",
            preset_audience=preset.audience(keys, endpoint),
            typ=preset.typ,
            algorithms=preset.algorithms,
            shares_audience=preset.shares_audience,
            fresh_assertion=keys.flag("fresh_assertion"),
        )
        self._judge(keys, grant, preset)
        return grant

    def _refuse_keys_of_others(self, keys: Keys, kind: GrantKind) -> None:
        own = {field.name for field in kind.fields} | (_OF_CHAINS if kind.name == "chain" else frozenset())
        of_others = ({field.name for other in KINDS.values() for field in other.fields} | _OF_CHAINS) - own
        for name in sorted(of_others | kind.no_effect):
            if keys.has(name):
                text = f"{name} is no key of grant_type {kind.name}"
                self._findings.error(keys.place(name), "value_invalid", text, "remove it, or use a kind that has it")

    def _require(self, keys: Keys, kind: GrantKind, preset: Preset) -> None:
        for name in preset.requires:
            if not keys.has(name) or keys.words()[name].value in ("", ()):
                of = f"preset {keys.text('preset')}" if keys.has("preset") else f"grant_type {kind.name}"
                self._findings.error(keys.at, "value_invalid", f"{of} needs {name}", f"add {name}")
        if kind.calls_token_endpoint and preset is NO_PRESET and not keys.text("token_endpoint"):
            fix = "add the URL of the issuer's token endpoint"
            self._findings.error(keys.at, "token_endpoint_invalid", "token_endpoint is required", fix)

    def _judge(self, keys: Keys, grant: TokenGrant, preset: Preset) -> None:
        """What keys come to together."""
        why = preset.refuses(grant)
        if why:
            self._findings.error(keys.place("preset"), "preset_mismatch", why, "follow the issuer's own page, or leave the preset out")
        if grant.client_auth == "private_key_jwt" and not grant.client_id:
            text = "client_auth: private_key_jwt needs a client_id: it is what the assertion is about"
            self._findings.error(keys.place("client_auth"), "value_invalid", text, "add client_id")

    def _scopes(self, keys: Keys) -> tuple[str, ...]:
        scopes = keys.texts("scopes")
        if not all(map(_SCOPE.fullmatch, scopes)):
            self._findings.error(
                keys.place("scopes"), "value_invalid", "a scope holds a space or another invalid character", "list each alone"
            )
        return scopes

    def _resources(self, keys: Keys) -> tuple[str, ...]:
        resources = keys.texts("resource")
        for resource in resources:
            if _RESOURCE.fullmatch(resource) is None or "#" in resource:
                self._findings.error(
                    keys.place("resource"), "value_invalid", "a resource is not an absolute URI", "write it with its scheme"
                )
        return resources

    def _assertion_type(self, keys: Keys, preset: Preset) -> str:
        text = keys.text("client_assertion_type").strip() or preset.assertion_type
        if text and _URN.fullmatch(text) is None:
            fix = "use urn:ietf:params:oauth:client-assertion-type:jwt-bearer or ...:jwt-spiffe"
            self._findings.error(keys.place("client_assertion_type"), "value_invalid", "client_assertion_type is not a URN", fix)
        return text

    def _extra(self, keys: Keys, kind: GrantKind) -> tuple[tuple[str, str], ...]:
        inner = keys.inner("extra_params")
        if inner is None:
            return ()
        for name in inner.words():
            if name in kind.parameters:
                self._findings.error(inner.place(name), "extra_param_reserved", f"{name} is a parameter of the grant itself", "remove it")
        return tuple((name, str(value.value)) for name, value in inner.words().items())

    def _cap_s(self, keys: Keys) -> float:
        seconds, duration = keys.number("cache_ttl_seconds"), keys.number("cache_ttl")
        if keys.has("cache_ttl_seconds") and keys.has("cache_ttl"):
            text = "cache_ttl_seconds and cache_ttl are both given"
            self._findings.error(keys.place("cache_ttl"), "value_invalid", text, "keep one of them")
        if duration is not None:
            return duration
        return seconds or math.inf

    def _override(self, keys: Keys) -> Override | None:
        reader = self._endpoints
        host, path, methods = reader.host(keys), reader.path(keys), reader.methods(keys)
        if host is None or path is None or methods is None:
            return None
        port = keys.number("port")
        return Override(
            at=keys.at,
            host=host,
            port=None if port is None else int(port),
            path=path,
            methods=methods,
            audience=keys.plain(self._findings, "audience"),
            scopes=self._scopes(keys),
            resources=self._resources(keys),
        )

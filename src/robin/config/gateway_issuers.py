"""The issuers of the gateway's section: whose tokens name callers, and where their keys come from."""

from robin.config.gateway_listeners import Add, At
from robin.config.yaml_reader import Located
from robin.identity.trust.settings import ALGORITHMS, JwksSettings, TrustSettings
from robin.planes.gateway.settings import IssuerSettings


def build_issuers(listed: Located, add: Add, at: At) -> list[IssuerSettings]:
    """The issuers that are right; what is wrong with the others is noted."""
    built = [issuer for entry in listed.value if (issuer := _build_issuer(entry, add, at)) is not None]
    names = [issuer.name for issuer in built]
    if len(set(names)) < len(names):
        add(at(listed), "value_invalid", "two issuers have the same name", "give each its own name")
    return built


def _build_issuer(entry: Located, add: Add, at: At) -> IssuerSettings | None:
    part: dict[str, Located] = entry.value
    values = entry.plain()
    jwks, kind = values["jwks"], values["kind"]
    algorithms = frozenset(values["algorithms"] or ("RS256", "ES256"))
    if bool(jwks.get("url")) == bool(jwks.get("file")):
        add(at(part["jwks"], entry), "value_invalid", "jwks has not exactly one of url and file", "give one of the two")
    elif not algorithms <= ALGORITHMS:
        fix = "use some of " + ", ".join(sorted(ALGORITHMS))
        add(at(part["algorithms"], entry), "algorithm_refused", "only asymmetric signatures are accepted", fix)
    elif kind == "spiffe" and not values.get("trust_domain"):
        add(at(entry), "value_invalid", "an issuer of kind spiffe has no trust_domain", "add trust_domain")
    elif kind != "spiffe" and not values.get("issuer"):
        add(at(entry), "value_invalid", f"an issuer of kind {kind} has no issuer", "add issuer, exactly as `iss` has it")
    elif not values["audiences"]:
        add(at(part["audiences"], entry), "value_invalid", "there is no audience", "add the audience of this gateway")
    else:
        trust = TrustSettings(
            issuer=values.get("issuer") or None,
            audiences=values["audiences"],
            algorithms=algorithms,
            jwks=JwksSettings(
                url=jwks.get("url"),
                file=jwks.get("file"),
                ca_file=jwks.get("ca_file"),
                bearer_file=jwks.get("bearer_file"),
                refresh_s=jwks["refresh"],
                min_refetch_s=jwks["min_refetch"],
                max_stale_s=jwks["max_stale"],
            ),
            leeway_s=values["leeway"],
            max_lifetime_s=values["max_lifetime"],
        )
        return IssuerSettings(
            name=values["name"],
            kind=kind,
            trust=trust,
            trust_domain=values.get("trust_domain") or "",
            namespaces=frozenset(values["namespaces"]),
        )
    return None

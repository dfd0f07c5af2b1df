"""The settings of `robin kube`: its section of robin.yaml, its policy, and the frozen value that the plane is built from.

What the specification names and this version does not do yet is a key too, and is refused with `not_supported`: a setting that is accepted
is in force.
"""

import datetime
import os
import re
from collections.abc import Mapping as Dict
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from robin.config.addresses import ADMIN, LISTEN, UPSTREAM
from robin.config.diagnostic import Diagnostic, Position
from robin.config.parse import BOOLEAN, PATH, TEXT, Form, InvalidValue, Kind, choice, duration, integer, size
from robin.config.schema import Entries, Field, Mapping, Scalar, Sequence
from robin.model.address import Address, TcpAddress, is_loopback
from robin.model.message import canonical_name
from robin.model.origin import UpstreamUrl
from robin.policy.kube.permit import is_never_forwarded
from robin.policy.kube.rules import Agent, Operation, PolicyDocument, Rule, Runbook
from robin.policy.kube.tiers import Classification, TierSettings

if TYPE_CHECKING:
    from robin.config.yaml_reader import Located

AGENT_NAME = "^[a-z0-9]([-a-z0-9]{0,40}[a-z0-9])?$"
POD_FOLDER = Path("/var/run/secrets/kubernetes.io/serviceaccount")

_NAME = r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?"
_EMPTY_OR_TEXT = Kind(name="text", parse=lambda text: text, form=Form(pattern="", may_be_empty=True))
_TIER = integer("0", "4")


def _parse_named(text: str) -> str:
    if re.fullmatch(_NAME, text.replace("{agent}", "a")) is None:
        raise InvalidValue("this is not a name of the Kubernetes API", "write lower-case letters, digits, - and ., perhaps with {agent}")
    return text


def _parse_time(text: str) -> float:
    try:
        parsed = datetime.datetime.fromisoformat(text)
    except ValueError:
        parsed = None
    if parsed is None or parsed.tzinfo is None:
        raise InvalidValue("this is not a time with a zone", 'write it as "2027-01-31T00:00:00Z", in quotes')
    return parsed.timestamp()


_NAMED = Kind(name="name", parse=_parse_named)
_TIME = Kind(name="time", parse=_parse_time, bounds="RFC 3339")
_ACTION = choice("allow", "deny", "escalate")


def _key(name: str, kind: Kind, default: str | None = None, help_: str = "", *, required: bool = False) -> Field:
    return Field(name=name, schema=Scalar(kind=kind, default=default), help=help_, required=required)


def _list(name: str, kind: Kind, help_: str = "") -> Field:
    return Field(name=name, schema=Sequence(item=Scalar(kind=kind), longest=1000), help=help_)


_RULE = Mapping(
    fields=(
        _key("name", TEXT, help_="unique per agent", required=True),
        _list("namespaces", TEXT, "globs; `*` does not cover the cluster scope"),
        _list("except_namespaces", TEXT),
        _key("cluster_scope", BOOLEAN, "false"),
        _list("nonresource", TEXT, "globs of paths"),
        _list("verbs", TEXT),
        _list("groups", _EMPTY_OR_TEXT, 'the core group is ""'),
        _list("resources", TEXT, "pods, pods/*, pods/log or *"),
        _list("names", TEXT),
        Field(name="tiers", schema=Entries(value=Scalar(kind=_ACTION), name="^[0-4]$"), required=True, help="tier: allow or deny"),
        _list("runbooks", TEXT),
        _key("max_session", duration("1s", "24h")),
        _key("expires", _TIME),
    )
)
_OPERATION = Mapping(fields=(_list("verbs", TEXT), _list("groups", _EMPTY_OR_TEXT), _list("resources", TEXT), _list("only_paths", TEXT)))
_AGENT = Mapping(
    fields=(
        _list("identities", TEXT, "spiffe://..., cn:NAME, token"),
        _key("service_account", _NAMED, help_="overrides credentials.jit.service_account"),
        Field(name="rules", schema=Sequence(item=_RULE, longest=1000)),
    )
)
POLICY = Mapping(
    fields=(
        _key("version", integer("1", "1"), required=True),
        _key("default", choice("deny"), "deny", "the only value"),
        Field(name="agents", schema=Entries(value=_AGENT, name=AGENT_NAME), required=True),
        Field(
            name="runbooks",
            schema=Entries(
                value=Mapping(fields=(_key("max_tier", integer("1", "3"), "2"), Field(name="operations", schema=Sequence(item=_OPERATION))))
            ),
        ),
    )
)


def _part(name: str, *fields: Field) -> Field:
    return Field(name=name, schema=Mapping(fields=fields))


SCHEMA = Mapping(
    fields=(
        _key("listen", Kind(name="address", parse=LISTEN.parse, bounds=LISTEN.bounds), "127.0.0.1:6444", "TLS always"),
        _part("tls", _key("cert_file", PATH), _key("key_file", PATH)),
        _key("state_dir", PATH, help_="left out: $XDG_STATE_HOME/robin/kube"),
        _part(
            "cluster",
            _key("url", UPSTREAM, "https://kubernetes.default.svc"),
            _key("ca_file", PATH, help_="left out: the pod's ca.crt inside a pod, else the system's roots"),
            _key("connect_timeout", duration("100ms", "60s"), "5s"),
            _key("response_timeout", duration("1s", "10m"), "65s"),
            _part("bootstrap", _key("token_file", PATH), _key("cert_file", PATH), _key("key_file", PATH)),
        ),
        _part(
            "credentials",
            _key("mode", choice("jit", "static"), "jit"),
            _part(
                "jit",
                _key("service_account", _NAMED, "robin-agent"),
                _key("namespace", _NAMED, "robin-system"),
                _key("ttl", duration("60s", "24h"), "300s", "soft TTL, up to max_ttl"),
                _key("max_ttl", duration("600s", "24h"), "3600s"),
                _list("audiences", TEXT),
                _key("mint", choice("per_request", "reuse"), "per_request"),
                _key("bind_secret", _NAMED),
                _key("timeout", duration("100ms", "60s"), "5s", "the whole mint, with a retry"),
            ),
        ),
        _part(
            "authn",
            _part("mtls", _key("client_ca_file", PATH), _list("spiffe_trust_domains", TEXT), _key("cn", BOOLEAN, "false")),
            _part("bearer", _key("tokens_file", PATH)),
        ),
        _key("policy_file", PATH),
        Field(name="policy", schema=Mapping(fields=POLICY.fields, nullable=True)),
        _part(
            "tiers",
            Field(
                name="classify",
                schema=Sequence(
                    item=Mapping(
                        fields=(
                            _key("group", TEXT, required=True),
                            Field(name="resources", schema=Sequence(item=Scalar(kind=TEXT)), required=True),
                            _key("read", _TIER, required=True),
                            _key("write", _TIER, required=True),
                            _key("delete", _TIER, required=True),
                        )
                    )
                ),
            ),
            _key("unknown_read", _TIER, "2"),
            _key("inspect_bodies", choice("strict", "host", "off"), "strict"),
            _key("dry_run", choice("lower", "keep"), "lower"),
            _key("protect_namespace", BOOLEAN, "true"),
        ),
        _part("streams", _key("idle_timeout", duration("1s", "24h"), "4h")),
        _part(
            "limits",
            _key("max_body", size("1KiB", "64MiB"), "3145728"),
            _key("max_target", size("1KiB", "64KiB"), "8192"),
            _key("max_header_bytes", size("1KiB", "1MiB"), "65536"),
        ),
        _list("forward_headers", TEXT),
        _part(
            "audit",
            _key("file", PATH, help_="left out: audit.jsonl in state_dir"),
            _key("checkpoint_every", integer("1", "1000000"), "1000"),
            _key("checkpoint_key_file", PATH),
            _key("fsync", choice("writes", "always"), "writes"),
        ),
        _part("admin", _key("listen", Kind(name="address", parse=ADMIN.parse, bounds=ADMIN.bounds), "127.0.0.1:9464")),
    )
)

NOT_BUILT = (
    ("credentials.mode", "static"),
    ("credentials.jit.mint", "reuse"),
)
"""Values that the schema knows and that are refused at load."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JitValues:
    """The settings `credentials.jit.*`."""

    service_account: str
    namespace: str
    ttl_s: float
    audiences: tuple[str, ...]
    bind_secret: str
    timeout_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class KubeSettings:
    """The settings of `robin kube`. Empty paths: none, or the default that `state_dir` or the pod has."""

    listen: tuple[Address, ...]
    tls_cert_file: str
    tls_key_file: str
    state_dir: Path
    cluster: UpstreamUrl
    cluster_ca_file: str
    connect_s: float
    response_s: float
    bootstrap_token_file: str
    bootstrap_cert_file: str
    bootstrap_key_file: str
    jit: JitValues
    client_ca_file: str
    trust_domains: tuple[str, ...]
    cn: bool
    tokens_file: str
    policy_file: str
    policy: PolicyDocument
    tiers: TierSettings
    inspect_bodies: str
    lower_dry_run: bool
    protected: str
    idle_s: float
    max_body: int
    max_target: int
    max_header_bytes: int
    forward_headers: frozenset[bytes]
    audit_file: str
    checkpoint_every: int
    checkpoint_key_file: str
    fsync: str
    admin: tuple[Address, ...]
    unsafe_broad_minter: bool = False
    unsafe_self_minting: bool = False


class KubeRefused(Exception):
    """The settings are not in order: each of `errors` is one line, which names the key and the fix."""

    def __init__(self, errors: tuple[str, ...]) -> None:
        super().__init__(errors)
        self.errors = errors


FLAGS = {
    "cluster_url": "cluster.url",
    "credentials": "credentials.mode",
    "jit_service_account": "credentials.jit.service_account",
    "jit_namespace": "credentials.jit.namespace",
    "jit_ttl": "credentials.jit.ttl",
    "listen": "listen",
    "policy": "policy_file",
    "state_dir": "state_dir",
}
"""The key that each flag overrides."""


def load_kube(config: str | None, flags: Dict[str, str], environ: Dict[str, str], *, unsafe: frozenset[str] = frozenset()) -> KubeSettings:
    """The settings from a file, if one is named, below flags. Raises KubeRefused."""
    section, errors = _read_section(config)
    values: dict[str, Any] = {} if section is None else _flatten("", section)
    places = {} if section is None else _places("", section)
    for flag, text in flags.items():
        key = FLAGS[flag]
        try:
            values[key] = _kind_of(key).parse(text)
        except InvalidValue as error:
            errors.append(f"robin: --{flag.replace('_', '-')}: {error.what}; {error.fix}")
        places[key] = f"--{flag.replace('_', '-')}"
    if errors:
        raise KubeRefused(tuple(errors))
    return _Builder(values, places, environ, unsafe).build()


def _read_section(config: str | None) -> "tuple[Located | None, list[str]]":
    from robin.config.yaml_reader import default_of, read_yaml  # noqa: PLC0415 - PyYAML is loaded only by what reads a file

    if config is None:
        return default_of(SCHEMA), []
    try:
        content = Path(config).read_bytes()
    except OSError as error:
        raise KubeRefused((f"robin: {config}: {error.strerror}; name a robin.yaml that can be read",)) from None
    from robin.config.robin_yaml import document  # noqa: PLC0415 - it imports this module

    root, diagnostics = read_yaml(content, config, document())
    errors = [str(one) for one in diagnostics if one.severity == "error"]
    if root is None or errors:
        return None, errors
    section: Located = root.value["kube"]
    if section.at is None:
        at = Position(file=config, line=1, col=1)
        errors.append(str(Diagnostic(at=at, code="key_missing", message="there is no section `kube`", fix="add `kube:` with its settings")))
    return section, errors


def _kind_of(path: str) -> Kind:
    schema: Any = SCHEMA
    for name in path.split("."):
        schema = next(field.schema for field in schema.fields if field.name == name)
    kind: Kind = schema.kind
    return kind


def _flatten(prefix: str, located: "Located") -> dict[str, Any]:
    """Values by dotted key. The policy and lists stay as they are."""
    flat: dict[str, Any] = {}
    for name, inner in located.value.items():
        path = f"{prefix}{name}"
        if path != "policy" and isinstance(inner.value, dict):
            flat |= _flatten(f"{path}.", inner)
        else:
            flat[path] = inner.plain()
    return flat


def _places(prefix: str, located: "Located") -> dict[str, str]:
    """Where each key stands, as messages name it; a default has no place."""
    places: dict[str, str] = {}
    for name, inner in located.value.items():
        path = f"{prefix}{name}"
        if inner.at is not None:
            places[path] = f"{inner.at}: error: {path}"
        if path != "policy" and isinstance(inner.value, dict):
            places |= _places(f"{path}.", inner)
    return places


class _Builder:
    """From values by dotted key to the settings; every error is found."""

    def __init__(self, values: dict[str, Any], places: dict[str, str], environ: Dict[str, str], unsafe: frozenset[str]) -> None:
        self._values = values
        self._places = places
        self._environ = environ
        self._unsafe = unsafe
        self._errors: list[str] = []

    def build(self) -> KubeSettings:
        """The settings. Raises KubeRefused."""
        self._check()
        policy = self._policy()
        if self._errors:
            raise KubeRefused(tuple(self._errors))
        get = self._values.get
        in_pod = (POD_FOLDER / "token").exists()
        own_file = not get("cluster.bootstrap.cert_file") and not get("cluster.bootstrap.token_file")
        return KubeSettings(
            listen=get("listen", ()),
            tls_cert_file=get("tls.cert_file") or "",
            tls_key_file=get("tls.key_file") or "",
            state_dir=state_dir(get("state_dir") or "", self._environ),
            cluster=self._values["cluster.url"],
            cluster_ca_file=get("cluster.ca_file") or (str(POD_FOLDER / "ca.crt") if in_pod else ""),
            connect_s=self._values["cluster.connect_timeout"],
            response_s=self._values["cluster.response_timeout"],
            bootstrap_token_file=get("cluster.bootstrap.token_file") or (str(POD_FOLDER / "token") if own_file else ""),
            bootstrap_cert_file=get("cluster.bootstrap.cert_file") or "",
            bootstrap_key_file=get("cluster.bootstrap.key_file") or "",
            jit=JitValues(
                service_account=self._values["credentials.jit.service_account"],
                namespace=self._values["credentials.jit.namespace"],
                ttl_s=self._values["credentials.jit.ttl"],
                audiences=get("credentials.jit.audiences", ()),
                bind_secret=get("credentials.jit.bind_secret") or "",
                timeout_s=self._values["credentials.jit.timeout"],
            ),
            client_ca_file=get("authn.mtls.client_ca_file") or "",
            trust_domains=get("authn.mtls.spiffe_trust_domains", ()),
            cn=self._values["authn.mtls.cn"],
            tokens_file=get("authn.bearer.tokens_file") or "",
            policy_file=get("policy_file") or "",
            policy=policy,
            tiers=TierSettings(
                classify=tuple(Classification(**{**one, "resources": tuple(one["resources"])}) for one in get("tiers.classify", ())),
                unknown_read=self._values["tiers.unknown_read"],
            ),
            inspect_bodies=self._values["tiers.inspect_bodies"],
            lower_dry_run=self._values["tiers.dry_run"] == "lower",
            protected=self._values["credentials.jit.namespace"] if self._values["tiers.protect_namespace"] else "",
            idle_s=self._values["streams.idle_timeout"],
            max_body=self._values["limits.max_body"],
            max_target=self._values["limits.max_target"],
            max_header_bytes=self._values["limits.max_header_bytes"],
            forward_headers=frozenset(canonical_name(name.encode()) for name in get("forward_headers", ())),
            audit_file=get("audit.file") or "",
            checkpoint_every=self._values["audit.checkpoint_every"],
            checkpoint_key_file=get("audit.checkpoint_key_file") or "",
            fsync=self._values["audit.fsync"],
            admin=self._values["admin.listen"],
            unsafe_broad_minter="broad_minter" in self._unsafe,
            unsafe_self_minting="self_minting" in self._unsafe,
        )

    def _refuse(self, key: str, code: str, text: str, fix: str) -> None:
        place = self._places.get(key, f"robin: {key}")
        self._errors.append(f"{place}: {code}: {text}. Fix: {fix}.")

    def _check(self) -> None:
        get = self._values.get
        for key, value in NOT_BUILT:
            if get(key) == value:
                self._refuse(key, "not_supported", f"`{value}` is not built yet", "leave the key out")
        if get("credentials.jit.ttl", 0) > get("credentials.jit.max_ttl", 0):
            self._refuse("credentials.jit.ttl", "value_invalid", "ttl is above max_ttl", "lower ttl, or raise credentials.jit.max_ttl")
        if not self._values["cluster.url"].origin.tls:
            self._refuse("cluster.url", "value_invalid", "the cluster is reached by https only", "write https://host[:port]")
        for first, second in (("tls.cert_file", "tls.key_file"), ("cluster.bootstrap.cert_file", "cluster.bootstrap.key_file")):
            if bool(get(first)) != bool(get(second)):
                self._refuse(first, "value_invalid", f"{first} and {second} go together", "give both, or neither")
        if get("cluster.bootstrap.token_file") and get("cluster.bootstrap.cert_file"):
            self._refuse("cluster.bootstrap.token_file", "value_invalid", "there are two bootstrap credentials", "keep one of them")
        outside = [one for one in get("listen", ()) if not (isinstance(one, TcpAddress) and one.host and is_loopback(one.host))]
        if outside and not get("tls.cert_file"):
            self._refuse("listen", "value_invalid", "a listener beyond loopback needs tls.cert_file and tls.key_file", "give both files")
        for name in get("forward_headers", ()):
            if is_never_forwarded(canonical_name(name.encode("ascii", "replace"))):
                self._refuse("forward_headers", "value_invalid", f"{name[:64]!a} is never forwarded", "remove it")

    def _policy(self) -> PolicyDocument:
        inline, path = self._values.get("policy"), self._values.get("policy_file")
        if (inline is None) == (not path):
            key = "policy" if inline else "policy_file"
            self._refuse(key, "key_missing", "exactly one of policy_file and policy is needed", "name a policy with --policy FILE")
            return PolicyDocument()
        try:
            return (
                load_policy(path)
                if path
                else build_policy_document(inline or {}, lambda _path: self._places.get("policy", "robin: policy"))
            )
        except KubeRefused as refused:
            self._errors += refused.errors
            return PolicyDocument()


def state_dir(text: str, environ: Dict[str, str]) -> Path:
    """The state folder: the one that is named, else the user's."""
    if text:
        return Path(text)
    base = environ.get("XDG_STATE_HOME") or os.path.join(environ.get("HOME") or "/", ".local", "state")
    return Path(base) / "robin" / "kube"


def load_policy(path: str) -> PolicyDocument:
    """The policy of a file. Raises KubeRefused."""
    from robin.config.yaml_reader import read_yaml  # noqa: PLC0415 - PyYAML is loaded only by what reads a file

    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise KubeRefused((f"robin: policy_file: {path}: {error.strerror}; name a policy that can be read",)) from None
    root, diagnostics = read_yaml(content, path, POLICY)
    errors = tuple(str(one) for one in diagnostics if one.severity == "error")
    if root is None or errors:
        raise KubeRefused(errors)
    return build_policy_document(root.plain(), lambda _name: path)


def build_policy_document(plain: Dict[str, Any], place: Any) -> PolicyDocument:
    """The policy as values, after what a schema cannot say was checked. Raises KubeRefused."""
    errors: list[str] = []
    runbooks = {
        name: Runbook(
            operations=tuple(Operation(**{key: tuple(items) for key, items in one.items()}) for one in book["operations"]),
            max_tier=book["max_tier"],
        )
        for name, book in plain.get("runbooks", {}).items()
    }
    agents: dict[str, Agent] = {}
    owners: dict[str, str] = {}
    for name, given in plain["agents"].items():
        rules: list[Rule] = []
        for one in given["rules"]:
            what = f"{place(name)}: agents.{name}.rules.{one['name']}"
            rule = _build_rule(one)
            if not (rule.namespaces or rule.cluster_scope or rule.nonresource):
                errors.append(f"{what}: value_invalid: the rule applies nowhere. Fix: give namespaces, cluster_scope or nonresource.")
            if "escalate" in rule.tiers.values():
                errors.append(f"{what}: not_supported: `escalate` is not built yet. Fix: write allow or deny.")
            if any(known.name == rule.name for known in rules):
                errors.append(f"{what}: value_invalid: two rules have this name. Fix: rename one of them.")
            errors += [
                f"{what}: value_invalid: there is no runbook {book!a}. Fix: declare it." for book in rule.runbooks if book not in runbooks
            ]
            rules.append(rule)
        for identity in given["identities"]:
            if identity != "token" and identity in owners:
                errors.append(
                    f"{place(name)}: agents.{name}.identities: {identity!a} belongs to {owners[identity]}. Fix: keep one of them."
                )
            if identity.startswith("jwt:"):
                errors.append(
                    f"{place(name)}: agents.{name}.identities: not_supported: `jwt:` is not built yet. Fix: use a SPIFFE ID or token."
                )
            owners[identity] = name
        account = given.get("service_account") or ""
        agents[name] = Agent(name=name, identities=tuple(given["identities"]), service_account=account, rules=tuple(rules))
    if errors:
        raise KubeRefused(tuple(errors))
    return PolicyDocument(agents=agents, runbooks=runbooks)


def _build_rule(one: Dict[str, Any]) -> Rule:
    lists = {key: tuple(one[key]) for key in "namespaces except_namespaces nonresource verbs groups resources names runbooks".split()}
    return Rule(
        name=one["name"],
        cluster_scope=one["cluster_scope"],
        tiers={int(tier): action for tier, action in one["tiers"].items()},
        max_session_s=one.get("max_session"),
        expires_at=one.get("expires"),
        **lists,
    )

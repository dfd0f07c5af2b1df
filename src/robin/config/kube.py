"""The settings of `robin kube`: its section of robin.yaml, its policy, and the frozen value that the plane is built from.

What the specification names and this version does not do yet is a key too, and is refused with `not_supported`: a setting that is accepted
is in force.
"""

import os
import re
from collections.abc import Mapping as Dict
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from robin.config import file_modes
from robin.config.addresses import ADMIN, LISTEN, UPSTREAM
from robin.config.diagnostic import Diagnostic, Position
from robin.config.kube_policy import NAMED, POLICY, KubeRefused, build_policy_document, load_policy, many, read_settings, single
from robin.config.parse import BOOLEAN, PATH, TEXT, InvalidValue, Kind, choice, duration, integer, size
from robin.config.schema import Field, Mapping, Scalar, Sequence
from robin.model.address import Address, TcpAddress, is_loopback
from robin.model.message import canonical_name
from robin.model.origin import UpstreamUrl
from robin.planes.kube.state import open_keys
from robin.policy.kube.judge import KubePolicySettings
from robin.policy.kube.permit import is_never_forwarded
from robin.policy.kube.rules import PolicyDocument
from robin.policy.kube.tiers import Classification, TierSettings

if TYPE_CHECKING:
    from robin.config.yaml_reader import Located

POD_FOLDER = Path("/var/run/secrets/kubernetes.io/serviceaccount")

_TIER = integer("0", "4")


def _parse_label(text: str) -> str:
    if re.fullmatch(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", text) is None:
        raise InvalidValue("this is not a namespace", "write lower-case letters, digits and -")
    return text


_LABEL = Kind(name="namespace", parse=_parse_label)
_SPAN = duration("1s", "24h")
_SESSION = Kind(name="session", parse=lambda text: None if text == "token" else _SPAN.parse(text), bounds="token, or 1s to 24h")


def _part(name: str, *fields: Field) -> Field:
    return Field(name=name, schema=Mapping(fields=fields))


SCHEMA = Mapping(
    fields=(
        single("listen", Kind(name="address", parse=LISTEN.parse, bounds=LISTEN.bounds), "127.0.0.1:6444", "TLS always"),
        _part("tls", single("cert_file", PATH), single("key_file", PATH)),
        single("state_dir", PATH, help_="left out: $XDG_STATE_HOME/robin/kube"),
        _part(
            "cluster",
            single("url", UPSTREAM, "https://kubernetes.default.svc"),
            single("ca_file", PATH, help_="left out: the pod's ca.crt inside a pod, else the system's roots"),
            single("connect_timeout", duration("100ms", "60s"), "5s"),
            single("response_timeout", duration("1s", "10m"), "65s"),
            _part("bootstrap", single("token_file", PATH), single("cert_file", PATH), single("key_file", PATH)),
        ),
        _part(
            "credentials",
            single("mode", choice("jit", "static"), "jit"),
            _part(
                "jit",
                single("service_account", NAMED, "robin-agent"),
                single("namespace", _LABEL, "robin-system"),
                single("ttl", duration("60s", "24h"), "300s", "soft TTL, up to max_ttl"),
                single("max_ttl", duration("600s", "24h"), "3600s"),
                many("audiences", TEXT),
                single("mint", choice("per_request", "reuse"), "per_request"),
                single("bind_secret", NAMED),
                single("timeout", duration("100ms", "60s"), "5s", "the whole mint, with a retry"),
            ),
        ),
        _part(
            "authn",
            _part("mtls", single("client_ca_file", PATH), many("spiffe_trust_domains", TEXT), single("cn", BOOLEAN, "false")),
            _part("bearer", single("tokens_file", PATH)),
        ),
        single("policy_file", PATH),
        Field(name="policy", schema=Mapping(fields=POLICY.fields, nullable=True)),
        _part(
            "tiers",
            Field(
                name="classify",
                schema=Sequence(
                    item=Mapping(
                        fields=(
                            single("group", TEXT, required=True),
                            Field(name="resources", schema=Sequence(item=Scalar(kind=TEXT)), required=True),
                            single("read", _TIER, required=True),
                            single("write", _TIER, required=True),
                            single("delete", _TIER, required=True),
                        )
                    )
                ),
            ),
            single("unknown_read", _TIER, "2"),
            single("inspect_bodies", choice("strict", "host", "off"), "strict"),
            single("dry_run", choice("lower", "keep"), "lower"),
            single("protect_namespace", BOOLEAN, "true"),
        ),
        _part(
            "streams",
            single("max_session", _SESSION, "token", "token, or a duration in its place"),
            single("max_per_agent", integer("1", "10000"), "64"),
            single("idle_timeout", duration("1s", "24h"), "4h"),
        ),
        _part(
            "limits",
            single("max_body", size("1KiB", "64MiB"), "3145728"),
            single("max_target", size("1KiB", "16KiB"), "8192"),
            single("max_header_bytes", size("1KiB", "1MiB"), "65536"),
        ),
        many("forward_headers", TEXT),
        _part(
            "audit",
            single("file", PATH, help_="left out: audit.jsonl in state_dir"),
            single("checkpoint_every", integer("1", "1000000"), "1000"),
            single("checkpoint_key_file", PATH),
            single("fsync", choice("writes", "always"), "writes"),
        ),
        _part("admin", single("listen", Kind(name="address", parse=ADMIN.parse, bounds=ADMIN.bounds), "127.0.0.1:9464")),
    )
)

_REFUSED_MODES = {
    "tls.key_file": file_modes.ANY,
    "cluster.bootstrap.key_file": file_modes.ANY,
    "audit.checkpoint_key_file": file_modes.ANY,
    "cluster.bootstrap.token_file": file_modes.WRITE,
    "authn.bearer.tokens_file": file_modes.WRITE,
}
"""Which rights of others a file must not give."""

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
    max_session_s: float | None
    max_per_agent: int
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

    @property
    def judging(self) -> KubePolicySettings:
        """What the judgement needs of them."""
        return KubePolicySettings(
            tiers=self.tiers,
            inspect_bodies=self.inspect_bodies,
            lower_dry_run=self.lower_dry_run,
            protected=self.protected,
            max_target=self.max_target,
        )


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
            errors.append(f"robin: --{flag.replace('_', '-')}: value_invalid: {error.what}. Fix: {error.fix}.")
        places[key] = f"robin: --{flag.replace('_', '-')}"
    if errors:
        raise KubeRefused(tuple(errors))
    return _Builder(values, places, environ, unsafe).build()


def _read_section(config: str | None) -> "tuple[Located | None, list[str]]":
    from robin.config.yaml_reader import default_of, read_yaml  # noqa: PLC0415 - PyYAML is loaded only by what reads a file

    if config is None:
        return default_of(SCHEMA), []
    content = read_settings(config, place="robin: --config")
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
            flat[path] = inner if path == "policy" and inner.value is not None else inner.plain()
    return flat


def _places(prefix: str, located: "Located") -> dict[str, str]:
    """Where each key stands, as messages name it; a default has no place. The section itself has the key ""."""
    places: dict[str, str] = {} if prefix or located.at is None else {"": str(located.at)}
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
        self._check_modes()
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
            max_session_s=get("streams.max_session"),
            max_per_agent=self._values["streams.max_per_agent"],
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
        section = self._places.get("")
        place = self._places.get(key, f"{section}: error: {key}" if section else f"robin: {key}")
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

    def _check_modes(self) -> None:
        """A private key that everyone can read, or a token that everyone can write, protects nothing. A file that is absent is no error."""
        for key, refused in _REFUSED_MODES.items():
            try:
                open_to_others = file_modes.others_may(self._values.get(key) or "", refused)
            except OSError:
                continue
            if open_to_others:
                what = "can be read or written by everyone" if refused == file_modes.ANY else "can be written by everyone"
                self._refuse(key, "value_invalid", f"the file {what}", "take the rights of others away: chmod o-rwx")
        for path in open_keys(state_dir(self._values.get("state_dir") or "", self._environ)):
            self._refuse("state_dir", "key_mode", f"everyone can read or write the private key {path.name}", "chmod 0600 it")

    def _policy(self) -> PolicyDocument:
        inline, path = self._values.get("policy"), self._values.get("policy_file")
        if (inline is None) == (not path):
            key = "policy" if inline else "policy_file"
            self._refuse(key, "key_missing", "exactly one of policy_file and policy is needed", "name a policy with --policy FILE")
            return PolicyDocument()
        try:
            if path:
                return load_policy(path, place=self._places.get("policy_file", "robin: policy_file"))
            assert inline is not None
            return build_policy_document(inline)
        except KubeRefused as refused:
            self._errors += refused.errors
            return PolicyDocument()


def state_dir(text: str, environ: Dict[str, str]) -> Path:
    """The state folder: the one that is named, else the user's."""
    if text:
        return Path(text)
    base = environ.get("XDG_STATE_HOME") or os.path.join(environ.get("HOME") or "/", ".local", "state")
    return Path(base) / "robin" / "kube"

"""The policy of `robin kube`: its keys, and the document that is built of them; every error names file, line, column and fix."""

import datetime
import re
from collections.abc import Mapping as Dict
from typing import TYPE_CHECKING, Any

from robin.config.diagnostic import Diagnostic
from robin.config.file import load_content
from robin.config.names import parse_spiffe_id
from robin.config.parse import BOOLEAN, TEXT, Form, InvalidValue, Kind, choice, duration, integer, nearest, shown
from robin.config.schema import Entries, Field, Mapping, Scalar, Sequence
from robin.policy.kube.rules import AGENT_NAME, Agent, Operation, PolicyDocument, Rule, Runbook, matches_glob

if TYPE_CHECKING:
    from robin.config.yaml_reader import Located

_VERBS = ("get", "list", "watch", "create", "update", "patch", "delete", "deletecollection", "head", "post", "put")
"""Of resources, and behind them those of other paths: the method in lower case."""
_NAME = r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?"
_EMPTY_OR_TEXT = Kind(name="text", parse=lambda text: text, form=Form(pattern="", may_be_empty=True))


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


def _parse_verb(text: str) -> str:
    if not any(matches_glob(text, verb) for verb in _VERBS):
        meant = nearest(text, _VERBS)
        raise InvalidValue(f"{shown(text)} is no verb", f"write {meant} (the nearest)" if meant else f"write one of {', '.join(_VERBS)}")
    return text


def _parse_identity(text: str) -> str:
    if text.startswith("spiffe://"):
        return parse_spiffe_id(text)
    if text != "token" and not re.match(r"(cn|jwt):.", text):
        fix = "write spiffe://trust-domain/path, cn:NAME or token; a certificate of the local CA needs no entry"
        if nearest(text, ("token",)):
            fix = "write token (the nearest)"
        raise InvalidValue(f"{shown(text)} is no identity", fix)
    return text


NAMED = Kind(name="name", parse=_parse_named)
_TIME = Kind(name="time", parse=_parse_time, bounds="RFC 3339")
_ACTION = choice("allow", "deny", "escalate")


_VERB = Kind(name="verb", parse=_parse_verb, bounds="a verb of the Kubernetes API, or a glob")
_IDENTITY = Kind(name="identity", parse=_parse_identity, bounds="spiffe://..., cn:NAME, token")


def single(name: str, kind: Kind, default: str | None = None, help_: str = "", *, required: bool = False) -> Field:
    return Field(name=name, schema=Scalar(kind=kind, default=default), help=help_, required=required)


def many(name: str, kind: Kind, help_: str = "") -> Field:
    return Field(name=name, schema=Sequence(item=Scalar(kind=kind), longest=1000), help=help_)


_RULE = Mapping(
    fields=(
        single("name", TEXT, help_="unique per agent", required=True),
        many("namespaces", TEXT, "globs; `*` does not cover the cluster scope"),
        many("except_namespaces", TEXT),
        single("cluster_scope", BOOLEAN, "false"),
        many("nonresource", TEXT, "globs of paths"),
        many("verbs", _VERB),
        many("groups", _EMPTY_OR_TEXT, 'the core group is ""'),
        many("resources", TEXT, "pods, pods/*, pods/log or *"),
        many("names", TEXT),
        Field(name="tiers", schema=Entries(value=Scalar(kind=_ACTION), name="^[0-4]$"), required=True, help="tier: allow or deny"),
        many("runbooks", TEXT),
        single("max_session", duration("1s", "24h")),
        single("expires", _TIME),
    )
)
_OPERATION = Mapping(fields=(many("verbs", _VERB), many("groups", _EMPTY_OR_TEXT), many("resources", TEXT), many("only_paths", TEXT)))
_AGENT = Mapping(
    fields=(
        many("identities", _IDENTITY, "beside certificates of the local CA: spiffe://..., cn:NAME, token"),
        single("service_account", NAMED, help_="overrides credentials.jit.service_account"),
        Field(name="rules", schema=Sequence(item=_RULE, longest=1000)),
    )
)
POLICY = Mapping(
    fields=(
        single("version", integer("1", "1"), required=True),
        single("default", choice("deny"), "deny", "the only value"),
        Field(name="agents", schema=Entries(value=_AGENT, name=AGENT_NAME), required=True),
        Field(
            name="runbooks",
            schema=Entries(
                value=Mapping(
                    fields=(single("max_tier", integer("1", "3"), "2"), Field(name="operations", schema=Sequence(item=_OPERATION)))
                )
            ),
        ),
    )
)


class KubeRefused(Exception):
    """The settings are not in order: each of `errors` is one line, which names the key and the fix."""

    def __init__(self, errors: tuple[str, ...]) -> None:
        super().__init__(errors)
        self.errors = errors


def read_settings(path: str, *, place: str) -> bytes:
    """The content of a policy or of robin.yaml. `place` is where the file is named. Raises KubeRefused."""
    try:
        return load_content(path)
    except InvalidValue as error:
        raise KubeRefused((f"{place}: value_invalid: {path}: {error.what}. Fix: {error.fix}.",)) from None


def load_policy(path: str, *, place: str = "robin: policy_file") -> PolicyDocument:
    """The policy of a file; `place` is where the file is named. Raises KubeRefused."""
    from robin.config.yaml_reader import read_yaml  # noqa: PLC0415 - PyYAML is loaded only by what reads a file

    content = read_settings(path, place=place)
    root, diagnostics = read_yaml(content, path, POLICY)
    errors = tuple(str(one) for one in diagnostics if one.severity == "error")
    if root is None or errors:
        raise KubeRefused(errors)
    return build_policy_document(root)


def build_policy_document(root: "Located") -> PolicyDocument:
    """The policy as values, after what a schema cannot say was checked. Raises KubeRefused."""
    return _Builder(root).build()


class _Builder:
    """Every error is found."""

    def __init__(self, root: "Located") -> None:
        self._root = root
        self._errors: list[str] = []
        self._owners: dict[str, str] = {}

    def build(self) -> PolicyDocument:
        """The document. Raises KubeRefused."""
        runbooks = {
            name: Runbook(
                operations=tuple(Operation(**{key: tuple(items) for key, items in one.items()}) for one in book["operations"]),
                max_tier=book["max_tier"],
            )
            for name, book in self._root.value["runbooks"].plain().items()
        }
        agents = {name: self._build_agent(name, given, runbooks) for name, given in self._root.value["agents"].value.items()}
        if self._errors:
            raise KubeRefused(tuple(self._errors))
        return PolicyDocument(agents=agents, runbooks=runbooks)

    def _build_agent(self, name: str, given: "Located", runbooks: Dict[str, Runbook]) -> Agent:
        what = f"agents.{name}.identities"
        for identity in given.value["identities"].value:
            owner = self._owners.setdefault(identity.value, name)
            if identity.value != "token" and owner != name:
                self._add(identity, "value_invalid", f"{what}: {identity.value!a} belongs to {owner}", "keep one of them")
            if identity.value.startswith("jwt:"):
                self._add(identity, "not_supported", f"{what}: `jwt:` is not built yet", "use a SPIFFE ID or token")
        rules: dict[str, Rule] = {}
        for one in given.value["rules"].value:
            rule = _build_rule(one.plain())
            what = f"agents.{name}.rules.{rule.name}"
            if not (rule.namespaces or rule.cluster_scope or rule.nonresource):
                fix = "give namespaces, cluster_scope or nonresource"
                self._add(one, "value_invalid", f"{what}: the rule applies nowhere", fix)
            for action in one.value["tiers"].value.values():
                if action.value == "escalate":
                    self._add(action, "not_supported", f"{what}: `escalate` is not built yet", "write allow or deny")
            for book in one.value["runbooks"].value:
                if book.value not in runbooks:
                    meant = nearest(book.value, runbooks)
                    fix = f"write {meant} (the nearest)" if meant else "declare it below `runbooks`"
                    self._add(book, "value_invalid", f"{what}: there is no runbook {book.value!a}", fix)
            if rule.name in rules:
                self._add(one.value["name"], "value_invalid", f"{what}: two rules have this name", "rename one of them")
            rules[rule.name] = rule
        account = given.value["service_account"].value if "service_account" in given.value else ""
        identities = tuple(given.value["identities"].plain())
        return Agent(name=name, identities=identities, service_account=account, rules=tuple(rules.values()))

    def _add(self, located: "Located", code: str, message: str, fix: str) -> None:
        assert located.at is not None  # it is no default
        self._errors.append(str(Diagnostic(at=located.at, code=code, message=message, fix=fix)))


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

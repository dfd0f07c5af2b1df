"""The rules of a policy: who may do what, where, at which tier; and the scope of a request as rules see it (spec of the plane, section 7).

An allow matches only if all that the request can touch lies inside the rule; a deny matches if anything that it can touch does.
"""

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from typing import Final

from robin.policy.kube.body import Body, object_name
from robin.policy.kube.request_info import RequestInfo
from robin.policy.kube.tiers import CLUSTER_SCOPED

ALLOW: Final = "allow"
DENY: Final = "deny"
ESCALATE: Final = "escalate"
AGENT_NAME: Final = "^[a-z0-9]([-a-z0-9]{0,40}[a-z0-9])?$"
_EVERYWHERE: Final = frozenset({"list", "watch", "deletecollection"})
_IGNORED_IN_UPDATE: Final = ("/apiVersion", "/kind", "/metadata", "/status")


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One rule. Empty lists of verbs, groups, resources and names stand for any. `tiers` maps a tier to its action. `expires_at`: epoch."""

    name: str
    namespaces: tuple[str, ...] = ()
    except_namespaces: tuple[str, ...] = ()
    cluster_scope: bool = False
    nonresource: tuple[str, ...] = ()
    verbs: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    resources: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    tiers: Mapping[int, str] = field(default_factory=dict)
    runbooks: tuple[str, ...] = ()
    max_session_s: float | None = None
    expires_at: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One operation of a runbook."""

    verbs: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    resources: tuple[str, ...] = ()
    only_paths: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Runbook:
    """Operations that lower a tier of at most `max_tier` to 1."""

    operations: tuple[Operation, ...]
    max_tier: int = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Agent:
    """One agent of the policy. `service_account` empty: the one of the settings."""

    name: str
    identities: tuple[str, ...] = ()
    service_account: str = ""
    rules: tuple[Rule, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyDocument:
    """The loaded policy."""

    agents: Mapping[str, Agent] = field(default_factory=dict)
    runbooks: Mapping[str, Runbook] = field(default_factory=dict)

    def digest(self) -> str:
        """SHA-256, in hexadecimal digits, of the canonical form."""
        plain = {
            "agents": {name: asdict(one) for name, one in self.agents.items()},
            "runbooks": {n: asdict(r) for n, r in self.runbooks.items()},
        }
        return hashlib.sha256(json.dumps(plain, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """A request as rules see it. `name` is empty where it is not known; `everywhere`: it touches every namespace."""

    info: RequestInfo
    name: str
    everywhere: bool

    @classmethod
    def of(cls, info: RequestInfo, body: Body) -> "Scope":
        """The scope of a request with this body."""
        name = info.name
        if not name and info.verb == "create" and not info.subresource and body.readable:
            name = object_name(body)
        everywhere = not info.namespace and info.verb in _EVERYWHERE and (info.group, info.resource) not in CLUSTER_SCOPED
        return cls(info=info, name=name, everywhere=everywhere)


@lru_cache(maxsize=4096)
def _pattern(glob: str) -> re.Pattern[str]:
    return re.compile("".join(".*" if part == "*" else "." if part == "?" else re.escape(part) for part in glob), re.DOTALL)


def matches_glob(glob: str, text: str) -> bool:
    """`*` any run, `?` one character, the whole string, case-sensitive."""
    return _pattern(glob).fullmatch(text) is not None


def _any(globs: Iterable[str], text: str) -> bool:
    return any(matches_glob(glob, text) for glob in globs)


def covers(rule: Rule, scope: Scope) -> bool:
    """Whether all that the request can touch lies inside the rule: what an allow needs."""
    return (
        _place_covered(rule, scope.info)
        and _kind_matches(rule, scope.info)
        and (not rule.names or (scope.name != "" and _any(rule.names, scope.name)))
    )


def touches(rule: Rule, scope: Scope) -> bool:
    """Whether anything that the request can touch lies inside the rule: enough for a deny."""
    info = scope.info
    place = _place_covered(rule, info) or (info.is_resource and scope.everywhere and bool(rule.namespaces))
    return place and _kind_matches(rule, info) and (not rule.names or not scope.name or _any(rule.names, scope.name))


def why_not(rule: Rule, scope: Scope, tier: int) -> str:
    """Why an allow of this rule does not match, for people; empty: it does."""
    if not _place_covered(rule, scope.info):
        return "it is outside the namespaces, the cluster scope or the paths of the rule"
    if not _kind_matches(rule, scope.info):
        return "verb, group or resource is not in the rule"
    if not covers(rule, scope):
        return "the name is not in the rule, or not known"
    return "" if tier in rule.tiers else f"the rule says nothing about tier {tier}"


def _place_covered(rule: Rule, info: RequestInfo) -> bool:
    if not info.is_resource:
        return _any(rule.nonresource, info.path)
    if not info.namespace:
        return rule.cluster_scope
    return _any(rule.namespaces, info.namespace) and not _any(rule.except_namespaces, info.namespace)


def _kind_matches(rule: Rule | Operation, info: RequestInfo) -> bool:
    if rule.verbs and not _any(rule.verbs, info.verb):
        return False
    if not info.is_resource:
        return True
    if rule.groups and not _any(rule.groups, info.group):
        return False
    return not rule.resources or any(_resource_matches(glob, info) for glob in rule.resources)


def _resource_matches(glob: str, info: RequestInfo) -> bool:
    if glob == "*":
        return True
    resource, slash, subresource = glob.partition("/")
    if not slash:
        return not info.subresource and matches_glob(resource, info.resource)
    return bool(info.subresource) and matches_glob(resource, info.resource) and matches_glob(subresource, info.subresource)


def runbook_fits(runbook: Runbook, info: RequestInfo, changed_by: Callable[[], list[str] | None]) -> bool:
    """Whether the request is one of the operations of a runbook. `changed_by`: the `changed_paths` of its body."""
    return info.is_resource and any(_kind_matches(one, info) and _only(one.only_paths, info, changed_by) for one in runbook.operations)


def _only(paths: tuple[str, ...], info: RequestInfo, changed_by: Callable[[], list[str] | None]) -> bool:
    if not paths:
        return True
    changed = changed_by()
    if changed is None:
        return False
    if info.verb == "update" and info.subresource == "scale":
        changed = [path for path in changed if not path.startswith(_IGNORED_IN_UPDATE)]
    return bool(changed) and all(path in paths for path in changed)

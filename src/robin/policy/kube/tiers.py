"""The tier table: how grave a request is, 0 observe to 4 break-glass, before its body is looked at (spec of the plane, section 6).

The table is versioned data: a change of a row is a change of TIERS_VERSION, which stands in every audit record.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from robin.policy.kube.request_info import RequestInfo

TIERS_VERSION: Final = 1
LABELS: Final = ("observe", "operate", "modify", "sensitive", "break-glass")
BREAK_GLASS: Final = 4

Row = tuple[int, int, int, int]
"""Tiers of: get list watch; create update patch; delete; deletecollection. What a row leaves empty is 4."""

_COLUMNS: Final = {"get": 0, "list": 0, "watch": 0, "create": 1, "update": 1, "patch": 1, "delete": 2, "deletecollection": 3}
_CLUSTER: Final = (0, 4, 4, 4)
_REVIEW_SELF: Final = (4, 0, 4, 4)
_REVIEW_OTHERS: Final = (4, 3, 4, 4)


def _rows(group: str, names: str, row: Row) -> dict[tuple[str, str], Row]:
    return {(group, name): row for name in names.split()}


WORKLOADS: Final = frozenset(
    {("", name) for name in "pods replicationcontrollers podtemplates".split()}
    | {("apps", name) for name in "deployments replicasets statefulsets daemonsets".split()}
    | {("batch", name) for name in "jobs cronjobs".split()}
)
"""Resources whose bodies hold a pod template."""

CLUSTER_SCOPED: Final = frozenset(
    {("", name) for name in "namespaces nodes persistentvolumes componentstatuses".split()}
    | {("storage.k8s.io", name) for name in "storageclasses csidrivers csinodes volumeattachments volumeattributesclasses".split()}
    | {("scheduling.k8s.io", "priorityclasses"), ("node.k8s.io", "runtimeclasses")}
    | {("networking.k8s.io", name) for name in "ingressclasses ipaddresses servicecidrs".split()}
    | {("resource.k8s.io", name) for name in "deviceclasses resourceslices".split()}
    | {("rbac.authorization.k8s.io", name) for name in "clusterroles clusterrolebindings".split()}
    | {("authentication.k8s.io", name) for name in "selfsubjectreviews tokenreviews".split()}
    | {("authorization.k8s.io", name) for name in "selfsubjectaccessreviews selfsubjectrulesreviews subjectaccessreviews".split()}
    | {("certificates.k8s.io", "certificatesigningrequests"), ("certificates.k8s.io", "clustertrustbundles")}
    | {
        ("admissionregistration.k8s.io", f"{kind}{name}")
        for kind in ("mutating", "validating")
        for name in ("admissionpolicies", "admissionpolicybindings", "webhookconfigurations")
    }
    | {("flowcontrol.apiserver.k8s.io", name) for name in "flowschemas prioritylevelconfigurations".split()}
    | {("apiextensions.k8s.io", "customresourcedefinitions"), ("apiregistration.k8s.io", "apiservices")}
)
"""Built-in resources without a namespace, as far as a rule for namespaces must not be taken to touch them."""

RESOURCES: Final[Mapping[tuple[str, str], Row]] = {
    **dict.fromkeys(CLUSTER_SCOPED, _CLUSTER),
    **dict.fromkeys(WORKLOADS, (0, 2, 3, 4)),
    **_rows("", "configmaps services persistentvolumeclaims events", (0, 2, 3, 4)),
    ("events.k8s.io", "events"): (0, 2, 3, 4),
    ("networking.k8s.io", "ingresses"): (0, 2, 3, 4),
    ("autoscaling", "horizontalpodautoscalers"): (0, 2, 3, 4),
    **_rows("resource.k8s.io", "resourceclaims resourceclaimtemplates", (0, 2, 3, 4)),
    **_rows("", "serviceaccounts resourcequotas limitranges endpoints", (0, 3, 3, 4)),
    ("networking.k8s.io", "networkpolicies"): (0, 3, 3, 4),
    ("policy", "poddisruptionbudgets"): (0, 3, 3, 4),
    ("discovery.k8s.io", "endpointslices"): (0, 3, 3, 4),
    ("coordination.k8s.io", "leases"): (0, 3, 3, 4),
    ("apps", "controllerrevisions"): (0, 3, 3, 4),
    ("", "bindings"): (4, 4, 4, 4),
    ("authentication.k8s.io", "selfsubjectreviews"): _REVIEW_SELF,
    **_rows("authorization.k8s.io", "selfsubjectaccessreviews selfsubjectrulesreviews", _REVIEW_SELF),
    ("authentication.k8s.io", "tokenreviews"): _REVIEW_OTHERS,
    **_rows("authorization.k8s.io", "subjectaccessreviews localsubjectaccessreviews", _REVIEW_OTHERS),
}

GROUPS: Final[Mapping[str, Row]] = {
    **dict.fromkeys(
        (f"{name}.k8s.io" for name in "rbac.authorization admissionregistration apiextensions apiregistration certificates".split()),
        _CLUSTER,
    ),
    **dict.fromkeys((f"{name}.k8s.io" for name in "flowcontrol.apiserver internal.apiserver storagemigration".split()), _CLUSTER),
    **dict.fromkeys((f"{name}.openshift.io" for name in "authorization oauth security user".split()), _CLUSTER),
    **dict.fromkeys((f"{name}.k8s.io" for name in "metrics custom.metrics external.metrics".split()), _CLUSTER),
}

_CLASSIFY: Final = "classify "
_ANY_METHOD: Final = frozenset({"proxy", "exec", "attach", "portforward", "finalize", "finalizers"})
_ALWAYS: Final = frozenset(
    {("", "serviceaccounts", "token"), ("", "pods", "binding"), ("certificates.k8s.io", "certificatesigningrequests", "approval")}
)
_GRAVE_STATUS: Final = frozenset({("", "nodes"), ("", "namespaces"), ("certificates.k8s.io", "certificatesigningrequests")})

_OBSERVED: Final = frozenset(
    {(), ("api",), ("apis",), ("version",), ("openapi", "v2"), (".well-known", "openid-configuration"), ("openid", "v1", "jwks")}
)
_OBSERVED_BELOW: Final = (("openapi", "v3"), ("healthz",), ("livez",), ("readyz",))


@dataclass(frozen=True, slots=True, kw_only=True)
class Classification:
    """An entry of `tiers.classify`."""

    group: str
    resources: tuple[str, ...]
    read: int
    write: int
    delete: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TierSettings:
    """The settings `tiers.*` as far as the table needs them."""

    classify: tuple[Classification, ...] = field(default=())
    unknown_read: int = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class BaseTier:
    """The tier by the table, why, and whether a row knows the resource, or an entry of `tiers.classify`."""

    tier: int
    reason: str
    known: bool
    classified: bool = False


def base_tier(info: RequestInfo, settings: TierSettings) -> BaseTier:
    """The tier of a request before its body raises it and policy lowers it."""
    if not info.is_resource:
        tier, reason = _path_tier(info)
        return BaseTier(tier=tier, reason=reason, known=True)
    row, reason, known = _resource_row(info, settings)
    classified = reason.startswith(_CLASSIFY)
    column = _COLUMNS[info.verb]
    tier = row[column]
    if info.subresource:
        grave, why = _subresource_tier(info, column)
        if grave >= tier:
            tier, reason = grave, why
    return BaseTier(tier=tier, reason=reason, known=known, classified=classified)


def _resource_row(info: RequestInfo, settings: TierSettings) -> tuple[Row, str, bool]:
    if info.resource == "secrets":
        row, reason, known = (3, 3, 3, 4), "secrets in any group", True
    elif (found := RESOURCES.get((info.group, info.resource))) is not None:
        row, reason, known = found, f"resource {info.resource}", True
    elif (found := GROUPS.get(info.group)) is not None:
        row, reason, known = found, f"group {info.group}", True
    else:
        row, reason, known = (settings.unknown_read, 4, 4, 4), "unknown resource", False
    for entry in settings.classify:
        if entry.group == info.group and info.resource in entry.resources:
            given = (entry.read, entry.write, entry.delete, 4)
            row = tuple(map(max, row, given)) if known else given  # type: ignore[assignment]  # both have four
            return row, f"{_CLASSIFY}{entry.group}", True
    return row, reason, known


def _subresource_tier(info: RequestInfo, column: int) -> tuple[int, str]:
    sub, key = info.subresource, (info.group, info.resource)
    reason = f"subresource {info.full_resource}"
    row: Row = (4, 4, 4, 4)
    if sub in _ANY_METHOD or (*key, sub) in _ALWAYS:
        pass
    elif (sub == "ephemeralcontainers" and key == ("", "pods")) or (sub == "status" and key in _GRAVE_STATUS):
        row = (0, 4, 4, 4)
    elif sub == "status":
        row = (0, 3, 4, 4)
    elif sub == "eviction" and key == ("", "pods"):
        row = (4, 3 if info.verb == "create" else 4, 4, 4)
    elif sub == "scale" or (sub == "resize" and key == ("", "pods")):
        row = (0, 2, 4, 4)
    elif sub == "log" and key == ("", "pods"):
        row = (0, 4, 4, 4)
    else:
        reason = f"unknown subresource {info.full_resource}"
    return row[column], reason


def _path_tier(info: RequestInfo) -> tuple[int, str]:
    segments = tuple(part for part in info.path.split("/") if part)
    if info.verb not in ("get", "head"):
        return 4, "a write outside the resources"
    discovery = (len(segments) == 2 and segments[0] == "api") or (len(segments) in (2, 3) and segments[0] == "apis")
    if segments in _OBSERVED or discovery or any(segments[: len(start)] == start for start in _OBSERVED_BELOW):
        return 0, "discovery, version or health"
    if segments[:1] == ("metrics",):
        return 3, "metrics"
    return 4, "a path that no row knows"

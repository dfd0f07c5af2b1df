"""What kube-apiserver will take a request to mean: its RequestInfo, from the canonical target (spec of the plane, section 5.2)."""

from dataclasses import dataclass
from typing import Final

from robin.policy.kube.selectors import BadSelector, check_labels, is_int64, required_name
from robin.policy.kube.target import Target, api_prefix

_VERBS: Final = {"POST": "create", "GET": "get", "HEAD": "get", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}
UPGRADABLE: Final = frozenset({"exec", "attach", "portforward", "proxy"})
_LONG: Final = UPGRADABLE | {"log"}


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestInfo:
    """The attributes that authorization sees. `path` is decoded. For what is no resource only `verb` and `path` count."""

    is_resource: bool
    verb: str
    path: str
    group: str = ""
    version: str = ""
    namespace: str = ""
    resource: str = ""
    subresource: str = ""
    name: str = ""

    @property
    def full_resource(self) -> str:
        """`pods`, or `pods/log`."""
        return f"{self.resource}/{self.subresource}" if self.subresource else self.resource

    @property
    def long_running(self) -> bool:
        """Whether the response may last: a watch, a log, an upgrade, or what lies behind a proxy."""
        return self.is_resource and (self.verb == "watch" or self.subresource in _LONG)


def read_request_info(method: str, target: Target) -> RequestInfo:
    """The RequestInfo of a target that was judged."""
    segments = target.segments
    at = api_prefix(segments)
    if not at:
        return RequestInfo(is_resource=False, verb=method.lower(), path=target.path)
    group = segments[1] if at == 3 else ""
    parts, namespace = segments[at:], ""
    if parts[0] == "namespaces" and len(parts) > 1:
        namespace = parts[1]
        if len(parts) > 2 and parts[2] not in ("status", "finalize"):
            parts = parts[2:]
    name = parts[1] if len(parts) > 1 else ""
    verb = _VERBS[method]
    if not name and verb == "get":
        watches, name = _list_options(target)
        verb = "watch" if watches else "list"
    elif not name and verb == "delete":
        verb = "deletecollection"
    return RequestInfo(
        is_resource=True,
        verb=verb,
        path=target.path,
        group=group,
        version=segments[at - 1],
        namespace=namespace,
        resource=parts[0],
        subresource=parts[2] if len(parts) > 2 else "",
        name=name,
    )


def _list_options(target: Target) -> tuple[bool, str]:
    """Whether it watches, and the name that a field selector fixes.

    Options that do not decode as a whole fix no name. Then `watch` is read in another way, too: the decoder folds case as Unicode does,
    to which the long s is an s, and the fallback only lowers it.
    """
    watch = target.values("watch")[:1]
    try:
        names = _decode_options(target)
    except BadSelector:
        return any(value.lower() not in ("0", "false") for value in watch), ""
    name = names[0] if names and names[0] else ""
    return any(value.replace("\u017f", "s").lower() not in ("0", "false") for value in watch), name if _is_segment(name) else ""


def _decode_options(target: Target) -> list[str | None]:
    """The names of the field selector. Raises BadSelector where one of the options would fail to decode."""
    if not all(is_int64(value) for key in ("limit", "timeoutSeconds") for value in target.values(key)[:1]):
        raise BadSelector
    for value in target.values("labelSelector")[:1]:
        check_labels(value)
    return [required_name(value) for value in target.values("fieldSelector")[:1]]


def _is_segment(name: str) -> bool:
    return name not in (".", "..") and "/" not in name and "%" not in name

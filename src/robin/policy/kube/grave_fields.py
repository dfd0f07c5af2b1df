"""The fields of a body that raise its tier, for each resource whose body is read.

A pod, or what holds a pod template, reaches the node by some fields and Secrets or accounts by others. A Secret of some types makes a token
of an account, which is a `serviceaccounts/token` by another way. A controller makes pods of a revision, and an external IP of a service
takes the traffic of all namespaces.
"""

from collections.abc import Mapping
from typing import Final

from robin.policy.kube.body import Members, Weigh
from robin.policy.kube.tiers import RESOURCES, WORKLOADS

_GRAVE_IF_TRUE: Final = frozenset({"hostpid", "hostipc", "hostnetwork", "privileged", "allowprivilegeescalation", "hostprocess"})
_ADDRESSED: Final = frozenset({"httpget", "tcpsocket"})  # the kubelet connects, from the network of the node
_CONFINING: Final = frozenset({"seccompprofile", "apparmorprofile"})
_APPARMOR: Final = "container.apparmor.security.beta.kubernetes.io/"
_CREDENTIALS: Final = frozenset({"serviceaccounttoken", "podcertificate"})
_SECRET_ENDS: Final = ("secretref", "secretkeyref", "secretname")
"""How the names of fields end that give a Secret to a pod, also by way of a storage driver."""

_TOKEN_TYPES: Final = frozenset({"kubernetes.io/service-account-token", "bootstrap.kubernetes.io/token"})
_TOKEN_OF: Final = "kubernetes.io/service-account.name"  # noqa: S105 - the name of an annotation
_NOTHING: Final[tuple[object, ...]] = (None, [], "")


def weigh_pod(key: str, value: object, strict: bool) -> int:
    """Of a pod, or of what holds the template of one."""
    if value is None:
        return 0
    if _reaches_node(key, value) or _is_unconfined(key, value):
        return 4
    return 3 if strict and _reaches_secret(key, value) else 0


def weigh_node(key: str, value: object, strict: bool) -> int:
    """Of a custom resource that `tiers.classify` knows: pods may be made of it, but its other fields have their own meaning."""
    return weigh_pod(key, value, False)


def _reaches_node(key: str, value: object) -> bool:
    if key == "hostpath" or (key in _GRAVE_IF_TRUE and value is not False):
        return True
    if key == "capabilities":
        return _sets(value, "add")
    if key in _ADDRESSED:
        return _sets(value, "host")
    return (key == "hostport" and value != 0) or (key == "nodename" and value != "")


def _is_unconfined(key: str, value: object) -> bool:
    if key == "procmount":
        return str(value).lower() == "unmasked"
    if key in _CONFINING:
        return any(name.lower() == "type" and str(given).lower() == "unconfined" for name, given in _own(value))
    if key == "selinuxoptions":
        return any(_sets(value, name) for name in ("user", "role", "type"))
    return key.startswith(_APPARMOR) and str(value).lower() == "unconfined"


def _reaches_secret(key: str, value: object) -> bool:
    if key in ("serviceaccountname", "serviceaccount"):
        return value not in ("", "default")
    if key.endswith(_SECRET_ENDS) or key in _CREDENTIALS or (key == "automountserviceaccounttoken" and value is not False):
        return True
    return key == "secret" and isinstance(value, Members)


def weigh_secret(key: str, value: object, strict: bool) -> int:
    """Of a Secret: what makes it the token of an account, or of a node that joins."""
    return 4 if key == _TOKEN_OF or (key == "type" and isinstance(value, str) and value in _TOKEN_TYPES) else 0


def weigh_service(key: str, value: object, strict: bool) -> int:
    """Of a service."""
    return 4 if key == "externalips" and value not in _NOTHING else 0


def _own(value: object) -> Members:
    return value if isinstance(value, Members) else Members()


def _sets(value: object, name: str) -> bool:
    """Whether this object has a member of that name, in any case, which is not empty."""
    return any(known.lower() == name and given not in _NOTHING for known, given in _own(value))


def weigh_of(group: str, resource: str, *, classified: bool) -> Weigh | None:
    """By what the body of a resource is weighed; None: its body does not raise its tier."""
    own = WEIGHTS.get((group, resource))
    return weigh_node if own is None and classified and (group, resource) not in RESOURCES else own


WEIGHTS: Final[Mapping[tuple[str, str], Weigh]] = {
    **dict.fromkeys(WORKLOADS, weigh_pod),
    ("apps", "controllerrevisions"): weigh_pod,
    ("", "secrets"): weigh_secret,
    ("", "services"): weigh_service,
}

"""The gateway's chart and kustomizations as they were last rendered, kept in `gateway/`, and how they are compared.

`make test` has neither helm nor kustomize: it reads these files, and sees by the digest in them whether templates have changed since.
`make real` renders again and compares; `ROBIN_RENDER=1 make real ARGS="-k renders"` writes the files anew.
"""

import copy
import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "deploy" / "helm" / "robin-gateway"
KUSTOMIZE = ROOT / "deploy" / "kustomize" / "gateway"
FOLDER = Path(__file__).with_name("gateway")
NAMESPACE = "robin-egress"

Key = tuple[str, str, str]
Objects = dict[Key, dict[str, Any]]
"""By kind, namespace and name; texts of ConfigMaps that are YAML are parsed."""

_AGENTS: dict[str, Any] = {"agents": [{"namespace": "agents", "podLabels": {"robin": "agent"}}]}
_SHARED: dict[str, Any] = {**_AGENTS, "networkPolicy": {"apiServerCidrs": ["192.0.2.1/32"]}}
_RULE = {"name": "docs", "hosts": ["docs.example.com"], "methods": ["GET"], "private": ["10.1.0.0/16"]}
_CUSTOM = {
    "to": [{"namespaceSelector": {"matchLabels": {"a": "b"}}, "podSelector": {"matchLabels": {"c": "d"}}}],
    "ports": [{"port": 53, "protocol": "UDP"}],
}
_ROUTE = {
    "name": "reports",
    "path_prefix": "/reports",
    "upstream": "https://reports.example.com/v2",
    "allow": [{"callers": ["k8s:agents/coder"], "methods": ["GET"]}],
}
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "shared": ("robin-gateway", _SHARED),
    "per-agent": ("robin-gateway", {**_SHARED, "topology": "per-agent"}),
    "one-replica": ("robin-gateway", {**_SHARED, "replicas": 1, "image": {"tag": "2"}}),
    "trust-manager": ("robin-gateway", {**_SHARED, "trust": {"mode": "trustManager"}}),
    "dns-none": ("robin-gateway", {**_SHARED, "dns": {"mode": "none"}, "service": {"clusterIP": "10.96.0.80"}}),
    "dns-openshift": ("robin-gateway", {**_SHARED, "dns": {"mode": "openshift"}}),
    "dns-nodelocal": ("robin-gateway", {**_SHARED, "dns": {"mode": "nodelocal"}}),
    "dns-custom": ("robin-gateway", {**_SHARED, "dns": {"mode": "custom", "custom": [_CUSTOM]}}),
    "reverse": ("robin-gateway", {**_SHARED, "config": {"routes": [_ROUTE]}}),
    "reverse-callers": (
        "robin-gateway",
        {
            **_SHARED,
            "topology": "per-agent",
            "auth": {"mode": "open"},
            "config": {"routes": [_ROUTE]},
            "reverse": {"audience": "reports", "callers": [{"namespace": "apps", "podLabels": {"app": "reports"}}]},
        },
    ),
    "mtls": (
        "coder",
        {
            "agents": [{"namespace": name, "podLabels": {"robin": "agent"}} for name in ("agents", "more")],
            "auth": {"mode": "mtls", "mtls": {"caConfigMap": "clients", "trustDomains": ["example.org"]}},
            "ca": {"mode": "existingSecrets", "slots": ["a"]},
            "trust": {"mode": "none"},
            "probe": {"enabled": False},
            "serviceMonitor": {"enabled": True},
            "config": {"policy": {"rules": [_RULE]}, "drain": {"max": "90s"}, "addresses": {"self_names": ["gateway.example"]}},
            "files": {"github.yaml": "id: github\n"},
            "tokens": {"sts": "sts.example"},
            "networkPolicy": {"privateCidrs": ["10.1.0.0/16"], "monitoring": None},
        },
    ),
    "open": (
        "robin-gateway",
        {**_AGENTS, "topology": "per-agent", "auth": {"mode": "open"}, "ca": {"mode": "none"}, "probe": {"enabled": False}},
    ),
}
"""Release name and values by the name of the render. All but `_WHOLE` keep only what differs from `shared`."""

AGENTS = ("agents", "locked", "locked-dns-none")
"""Renders of kustomize alone: pods that are made agents, with a lockdown, and without DNS."""

KUSTOMIZATIONS = ("shared", "per-agent", "trust-manager", "reverse", "dns-none", "dns-openshift", "dns-nodelocal", *AGENTS)

_BASE = {"locked": "agents", "locked-dns-none": "locked"}
_WHOLE = ("shared", "agents")


def parsed(text: str) -> Objects:
    """The objects of a stream of YAML documents."""
    found: Objects = {}
    for one in yaml.safe_load_all(text):
        if one:
            for name, content in one.get("data", {}).items():
                if name.endswith(".yaml"):
                    one["data"][name] = yaml.safe_load(content)
            found[one["kind"], one["metadata"].get("namespace", ""), one["metadata"]["name"]] = one
    return found


def of_kustomize(objects: Objects) -> Objects:
    """The same without digests, which kustomize cannot make: in the name of the trust job, and of what the gateway cannot reload."""
    found = {}
    for (kind, namespace, name), whole in objects.items():
        one = copy.deepcopy(whole)
        if kind == "Deployment":
            one["spec"]["template"]["metadata"].pop("annotations", None)
        plain = f"{name.rpartition('-')[0]}-first" if kind == "Job" and "trust" in name else name
        found[kind, namespace, plain] = {**one, "metadata": {**one["metadata"], "name": plain}}
    return found


def digest() -> str:
    """Changes with every file of the chart and of the kustomizations, and with the values above."""
    total = hashlib.sha256(json.dumps(VARIANTS, sort_keys=True).encode())
    for path in sorted(
        path
        for folder in (CHART, KUSTOMIZE, *(FOLDER / name for name in (*KUSTOMIZATIONS, "pods")))
        for path in folder.rglob("*")
        if path.is_file()
    ):
        total.update(f"{path.relative_to(ROOT)}\n{len(path.read_bytes())}\n".encode() + path.read_bytes())
    return total.hexdigest()


def kept(name: str) -> Objects:
    """The render that is kept under this name."""
    changed = parsed(_path(name).read_text())
    if name in _WHOLE:
        return changed
    (removed,) = (changed.pop(key) for key in list(changed) if key[0] == "Removed")
    whole = {**kept(_BASE.get(name, "shared")), **changed}
    return {key: one for key, one in whole.items() if list(key) not in removed["objects"]}


def keep(name: str, objects: Objects) -> None:
    """Write a render, `shared` first."""
    shared = {} if name in _WHOLE else kept(_BASE.get(name, "shared"))
    changed = [one for key, one in sorted(objects.items()) if shared.get(key) != one]
    if name not in _WHOLE:
        gone: Iterable[Key] = sorted(shared.keys() - objects.keys())
        changed.insert(0, {"kind": "Removed", "metadata": {"name": name}, "objects": [list(key) for key in gone]})
    _path(name).write_text("---\n".join(as_text(one) for one in changed))
    (FOLDER / "digest").write_text(f"{digest()}\n")


def rendered_from() -> str:
    """The digest of what the kept files were rendered from."""
    return (FOLDER / "digest").read_text().strip()


def _path(name: str) -> Path:
    return FOLDER / f"{name}.yaml"


def as_text(one: dict[str, Any]) -> str:
    """The object as YAML."""
    texts = {name: yaml.safe_dump(content) for name, content in one.get("data", {}).items() if name.endswith(".yaml")}
    whole = {**one, "data": {**one["data"], **texts}} if texts else one
    return yaml.dump(whole, Dumper=_Block, width=140)


class _Block(yaml.SafeDumper):
    """Texts of several lines as blocks."""


def _text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style="|" if "\n" in value else None)


_Block.add_representer(str, _text)

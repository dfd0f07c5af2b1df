"""`robin check kube`: the settings and the policy of the Kubernetes plane, offline; every error on a line of its own."""

import json
import sys
from collections.abc import Iterator
from dataclasses import fields

from robin.config.kube import JitValues, KubeSettings, load_kube
from robin.config.kube_policy import KubeRefused
from robin.config.load import environment
from robin.policy.kube.rules import PolicyDocument
from robin.policy.kube.tiers import Classification, TierSettings


def check(config: str | None, *, as_json: bool) -> int:
    """0 they are right, 2 they are not."""
    try:
        settings = load_kube(config, {}, environment())
    except KubeRefused as refused:
        if as_json:
            print(json.dumps({"ok": False, "errors": list(refused.errors)}, indent=2))
        print("\n".join(refused.errors), file=sys.stderr)
        return 2
    plain = dict(_flat(settings))
    plain["policy_digest"], plain["agents"] = settings.policy.digest(), ", ".join(settings.policy.agents)
    if as_json:
        print(json.dumps({"ok": True, "settings": plain}, indent=2))
    else:
        width = max(map(len, plain))
        print("\n".join(f"{name:<{width}}  {value or 'unset'}" for name, value in plain.items()))
    return 0


def _flat(settings: KubeSettings | JitValues | TierSettings, prefix: str = "") -> Iterator[tuple[str, str]]:
    for field in fields(settings):
        value = getattr(settings, field.name)
        if isinstance(value, (JitValues, TierSettings)):
            yield from _flat(value, f"{prefix}{field.name}.")
        elif not isinstance(value, PolicyDocument):
            yield f"{prefix}{field.name}", _shown(value)


def _shown(value: object) -> str:
    match value:
        case None:
            return ""
        case bool():
            return str(value).lower()
        case float():
            return f"{value:g}"
        case bytes():
            return value.decode("ascii")
        case tuple() | frozenset():
            return ", ".join(sorted(map(_shown, value)))
        case Classification(group=group, resources=names, read=read, write=write, delete=delete):
            return f"{group}/{'|'.join(names)}: read {read} write {write} delete {delete}"
    return str(value)

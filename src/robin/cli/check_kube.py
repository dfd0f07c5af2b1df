"""`robin check kube`: the settings and the policy of the Kubernetes plane, offline; every error on a line of its own."""

import json
import sys
from dataclasses import fields

from robin.config.kube import KubeRefused, load_kube
from robin.config.load import environment


def check(config: str | None, *, as_json: bool) -> int:
    """0 they are right, 2 they are not."""
    try:
        settings = load_kube(config, {}, environment())
    except KubeRefused as refused:
        if as_json:
            print(json.dumps({"ok": False, "errors": list(refused.errors)}, indent=2))
        print("\n".join(refused.errors), file=sys.stderr)
        return 2
    plain = {field.name: _shown(getattr(settings, field.name)) for field in fields(settings) if field.name != "policy"}
    plain["policy_digest"], plain["agents"] = settings.policy.digest(), ", ".join(settings.policy.agents)
    if as_json:
        print(json.dumps({"ok": True, "settings": plain}, indent=2))
    else:
        width = max(map(len, plain))
        print("\n".join(f"{name:<{width}}  {value}" for name, value in plain.items()))
    return 0


def _shown(value: object) -> str:
    if isinstance(value, (tuple, frozenset)):
        return ", ".join(sorted(item.decode("ascii") if isinstance(item, bytes) else str(item) for item in value))
    return str(value)

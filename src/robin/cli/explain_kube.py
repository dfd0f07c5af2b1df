"""`robin explain kube METHOD URL`: the refusal, or meaning, tier, rules and decision, by the plane's own judgement."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from robin.config.kube import FLAGS, KubeSettings, load_kube
from robin.config.kube_policy import KubeRefused
from robin.config.load import environment
from robin.model.kube_faults import KUBE_FAULTS, STATUS_REASONS
from robin.planes.kube.audit import decision_fields
from robin.planes.kube.minting import account_of
from robin.policy.kube.judge import Decision, HeadFacts, KubePolicySettings, KubeRequest, explain, judge, read_content, read_request
from robin.policy.kube.rules import PolicyDocument
from robin.policy.kube.target import Malformed
from robin.policy.kube.tiers import LABELS

EXIT_ALLOW: Final = 0
EXIT_DENY: Final = 4
EXIT_MALFORMED: Final = 5


def configure(parser: argparse.ArgumentParser) -> None:
    """The request, and whose policy judges it."""
    parser.add_argument("method", metavar="METHOD")
    parser.add_argument("url", metavar="URL", help="a path with its query, or a URL whose path is taken")
    parser.add_argument("--agent", default="", metavar="NAME", help="the agent that asks")
    parser.add_argument("--body", metavar="FILE", help="the body of the request")
    parser.add_argument("--content-type", default="application/json", metavar="TYPE", help="of the body [application/json]")
    parser.add_argument("--header", action="append", default=[], metavar="NAME:VALUE", help="repeatable")
    parser.add_argument("--config", metavar="FILE", help="robin.yaml with a section `kube`")
    parser.add_argument("--policy", metavar="FILE", help="the policy; without one, only the tier is shown")
    parser.add_argument("--json", action="store_true", help="write JSON with the field names of the audit")


def run(args: argparse.Namespace) -> int:
    """0 allow, 4 deny, 5 malformed, 2 usage."""
    try:
        settings = _load(args)
        octets = None if args.body is None else Path(args.body).read_bytes()
        head = _head(args, octets)
    except KubeRefused as refused:
        print("\n".join(refused.errors), file=sys.stderr)
        return 2
    except (OSError, ValueError) as error:
        print(f"robin explain kube: {error}", file=sys.stderr)
        return 2
    judging = KubePolicySettings(protected="robin-system") if settings is None else settings.judging
    try:
        request = read_request(head, judging)
    except Malformed as refusal:
        _print_refusal(refusal, as_json=args.json)
        return EXIT_MALFORMED
    policy = PolicyDocument() if settings is None else settings.policy
    body, now = read_content(request, octets), _now()
    decision = judge(request, body, args.agent, policy, judging, now=now)
    why = explain(request, body, args.agent, policy, judging, decision, now=now)
    account = _account(args, policy, settings)
    print(
        json.dumps(_values(args, request, decision, why, policy, account), indent=2)
        if args.json
        else _text(request, decision, why, account)
    )
    return EXIT_DENY if decision.code else EXIT_ALLOW


def _now() -> float:
    from robin.transport.clock import SystemClock  # noqa: PLC0415

    return SystemClock().wall()


def _load(args: argparse.Namespace) -> KubeSettings | None:
    if args.config is None and args.policy is None:
        return None
    flags = {name: getattr(args, name) for name in FLAGS if getattr(args, name, None) is not None}
    return load_kube(args.config, flags, environment())


def _head(args: argparse.Namespace, octets: bytes | None) -> HeadFacts:
    fields = []
    for header in args.header:
        name, colon, value = header.partition(":")
        if not colon:
            raise ValueError(f"--header {name!a}: write NAME:VALUE")
        fields.append((name.strip().lower().replace("_", "-"), value.strip()))
    target = args.url
    if "://" in target:
        parts = urlsplit(target)
        target = (parts.path or "/") + (f"?{parts.query}" if "?" in target else "")
    upgrades = _values_of(fields, "upgrade")
    protocols = _values_of(fields, "sec-websocket-protocol")
    return HeadFacts(
        method=args.method,
        target=target.encode(),
        names=tuple(name for name, _ in fields),
        upgrade=upgrades[-1].lower() if upgrades else "",
        asks_upgrade=bool(upgrades),
        protocols=protocols or None,
        content_type=args.content_type,
        content_encoding=",".join(_values_of(fields, "content-encoding")),
        has_body=octets is not None,
    )


def _values_of(fields: Sequence[tuple[str, str]], name: str) -> tuple[str, ...]:
    return tuple(value for known, value in fields if known == name)


def _print_refusal(refusal: Malformed, *, as_json: bool) -> None:
    kind = KUBE_FAULTS[refusal.code]
    if as_json:
        print(
            json.dumps(
                {
                    "decision": "refused",
                    "code": refusal.code,
                    "status": kind.status,
                    "reason": STATUS_REASONS[refusal.code],
                    "detail": refusal.detail,
                },
                indent=2,
            )
        )
    else:
        print(f"refused   {refusal.code} ({kind.status} {STATUS_REASONS[refusal.code]})\n          {refusal.detail}")


def _values(
    args: argparse.Namespace, request: KubeRequest, decision: Decision, why: dict[str, str], policy: PolicyDocument, account: str | None
) -> dict[str, Any]:
    info = request.info
    return {
        "agent": args.agent,
        "method": request.method,
        "path": info.path,
        "resource_request": info.is_resource,
        **decision_fields(info, decision),
        "rules": why,
        "policy_digest": policy.digest(),
        "account": account,
        "max_session_s": decision.max_session_s,
    }


def _account(args: argparse.Namespace, policy: PolicyDocument, settings: KubeSettings | None) -> str | None:
    if settings is None:
        return None
    agent = policy.agents.get(args.agent)
    return account_of(args.agent, (agent.service_account if agent else "") or settings.jit.service_account)


def _text(request: KubeRequest, decision: Decision, why: dict[str, str], account: str | None) -> str:
    info = request.info
    what = f"{info.verb} {info.full_resource}{f'.{info.group}' if info.group else ''}" if info.is_resource else f"{info.verb} {info.path}"
    place = f" in namespace {info.namespace}" if info.namespace else ""
    lines = [
        f"request   {what}{f' {info.name!a}' if info.name else ''}{place}",
        f"tier      {decision.tier} {LABELS[decision.tier]}: {decision.tier_reason}",
        *(f"rule      {name}: {one}" for name, one in why.items()),
        " ".join(["decision ", decision.decision, *filter(None, (decision.code, decision.rule and f"by rule {decision.rule}"))]),
    ]
    if account is not None and not decision.code:
        lines.append(f"account   {account}")
        if info.long_running:
            limit_s = decision.max_session_s
            lines.append("session   ends with its token" + ("" if limit_s is None else f", and after {limit_s:g} s"))
    return "\n".join(lines)

"""`--grant PROVIDER/CREDENTIAL` of `robin doctor` and `robin token`: which grant is meant, and what of it is printed. Exit 0, 4, 2."""

import argparse
import asyncio
import json
import sys
from typing import Final

from robin.app.one_grant import OneGrant, credentials_of, obtain_one, plans_of
from robin.cli.flags import given, refuse
from robin.cli.gateway_file import gateway_or_exit
from robin.config.load import CONFIG, environment
from robin.config.parse import nearest, shown
from robin.grants.run import hash_of
from robin.grants.settings import GrantPlan
from robin.model.faults import name_settings
from robin.planes.gateway.settings import GatewaySettings
from robin.transport.clock import SystemClock
from robin.transport.tls import TlsFileError
from robin.wire.jwt_inspection import TokenRules, parse_unverified, unsafe_text

NO_GRANT: Final = 4


def run_one(args: argparse.Namespace, *, metadata: bool) -> tuple[GrantPlan, OneGrant]:
    """Run the grant that is meant. Exits with 2 where it cannot be found, or the settings are wrong."""
    flags = given(args)
    if others := sorted(set(flags) - {CONFIG}):
        refuse([f"robin: {others[0]} is of the sidecar; --grant reads robin.yaml alone, which --config names"])
    settings = gateway_or_exit(flags.get(CONFIG) or environment().get(CONFIG) or "robin.yaml")
    plan = _chosen(args, settings)
    try:
        return plan, asyncio.run(obtain_one(settings, plan, SystemClock(), metadata=metadata))
    except TlsFileError as error:
        refuse([f"robin: gateway.grants.ca_file: {error}; give a readable PEM bundle of CA certificates"])


def _chosen(args: argparse.Namespace, settings: GatewaySettings) -> GrantPlan:
    provider, _, credential = str(args.grant).partition("/")
    plans, known = plans_of(settings, provider, credential), credentials_of(settings)
    if not plans:
        meant = nearest(args.grant, known) or ", ".join(known[:8])
        fix = f"use {meant}" if meant else "attach a provider with a token_grant in robin.yaml"
        refuse([f"robin: there is no grant {shown(args.grant)}; {fix}"])
    wanted = args.grant_audience
    found = next((plan for plan in plans if wanted is None or audience_of(plan) == wanted), None)
    if found is None:
        refuse([f"robin: no request gets a token for the audience {shown(wanted)}; use {_audiences(plans)}"])
    if wanted is None and len(plans) > 1:
        print(
            f"robin: requests get tokens of several audiences: {_audiences(plans)}; this is the first, --grant-audience chooses",
            file=sys.stderr,
        )
    return found


def audience_of(plan: GrantPlan) -> str:
    """The audience of the token that requests get; "" where none is asked for."""
    return plan.audience if plan.settings is None else plan.settings.audience


def _audiences(plans: list[GrantPlan]) -> str:
    return ", ".join(shown(audience_of(plan)) for plan in plans[:8])


def why_not(result: OneGrant) -> tuple[str, str]:
    """Why there is no token: `code: what`, and the fix."""
    failed = result.fault
    assert failed is not None
    detail = name_settings(failed.detail, {"issuer_rate": "gateway.grants.issuer_rate"})
    what, _, fix = detail.rpartition("; ") if "; " in detail else (detail, "", "")
    return f"{failed.code}: {what}", fix or "look at the issuer, and try again"


def show_token(args: argparse.Namespace) -> int:
    """`robin token --grant`: hash, claims and usable time of the token that an origin would get. Returns the exit code."""
    plan, result = run_one(args, metadata=False)
    if result.token is None:
        what, fix = why_not(result)
        if args.json:
            print(json.dumps({"ok": False, "error": what, "fix": fix}, indent=2))
        print(f"robin: {what}; {fix}", file=sys.stderr)
        return NO_GRANT
    raw = unsafe_text(result.token) if args.unsafe_print_token else ""
    if raw and not args.json:
        print(raw)
        return 0
    parts = parse_unverified(result.token, TokenRules(), now=SystemClock().wall())
    values = {
        "ok": True,
        "grant": f"{plan.provider}/{plan.credential}",
        "kind": plan.kind,
        "token_hash": hash_of(result.token),
        "header": parts.header,
        "claims": parts.claims,
        "scope_granted": result.facts.get("scope_granted"),
        "usable_s": None if result.usable_s is None else int(max(0.0, result.usable_s)),
    }
    print(json.dumps(values | ({"token": raw} if raw else {}), indent=2) if args.json else _text(values))
    return 0


def _text(values: dict[str, object]) -> str:
    lines = [f"token: {values['token_hash']} of {values['grant']}, by {values['kind']}"]
    for title in ("header", "claims"):
        if values[title] is not None:
            lines += [f"{title}:", "  " + json.dumps(values[title], indent=2).replace("\n", "\n  ")]
    if values["claims"] is None:
        lines.append("claims: none to see, the token is opaque")
    if values["scope_granted"] is not None:
        lines.append(f"scope granted: {values['scope_granted']}")
    known = values["usable_s"] is not None
    return "\n".join([*lines, f"usable for: {values['usable_s']} s" if known else "usable for: not known, it has no exp"])

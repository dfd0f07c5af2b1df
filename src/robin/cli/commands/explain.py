"""Show what a plane would decide about one request, and why; or what a public code or word means. Nothing is sent anywhere."""

import argparse
from collections.abc import Mapping
from importlib import import_module
from typing import Final

from robin.cli.reason_words import WORDS
from robin.model.faults import FAULTS
from robin.model.gateway_faults import GATEWAY_FAULTS
from robin.model.grant_faults import GRANT_FAULTS
from robin.model.kube_faults import KUBE_FAULTS
from robin.model.passport import SIGNER_CLASSES
from robin.model.passport_reasons import REASONS

PLANES: Final[Mapping[str, tuple[str, str]]] = {
    "gateway": ("robin.cli.explain_gateway", "a request through the egress gateway"),
    "kube": ("robin.cli.explain_kube", "a request to the Kubernetes API"),
}
"""Plane: the module with `configure(parser)` and `run(args) -> int`, and what it explains."""


_PAGES: Final = (("gateway", GATEWAY_FAULTS), ("kube", KUBE_FAULTS), ("credentials", GRANT_FAULTS), ("faults", FAULTS))
"""The page below docs/reference that lists the codes; the first that has one counts."""


_CLASSES: Final = {
    "software": "a software key; the kernel's report of the peer is all that was verified.",
    "remote_kms": "a key in a remote key service.",
    "hardware_local": "a local key that cannot be exported.",
    "attested_workload": """the broker verified an X.509-SVID before it signed.
It does not mean that the broker's key is in hardware, in an enclave or in a key service, nor that it cannot be exported.
The verifier trusts the broker's issuer key and does not check the SVID again.
Whoever can read the broker's key file can issue whatever that key may assert.""",
}


_WORDS: Final = {
    "would_deny": ("a record has the code with which the request would be refused; it passed, as the policy only reports", "report-mode"),
    "policy_reports_only": ("a warning: the policy only reports, so that requests pass that no rule allows", "report-mode"),
    "policy_reload": ("why a tunnel ended: a reload no longer permits it", "reload"),
    "drain": ("why an exchange or a tunnel ended: the gateway stops, and drain.max has passed", "drain"),
}
"""Words of the gateway's records and log that are no codes: what each means, and its place on the page of the gateway."""


_PASSES: Final = "perhaps, as the cause may pass; no Retry-After is sent"
_MAY_PASS: Final = {
    **dict.fromkeys(("dns_failed", "dns_timeout", "connect_refused", "connect_timeout", "unroutable", "parent_unreachable"), _PASSES),
    **dict.fromkeys(("response_timeout", "upstream_closed"), f"{_PASSES}, and the upstream may have acted on the request already"),
}
"""Codes without Retry-After whose cause may pass by itself; the other codes without one stay until something is changed."""


_NO_CODE: Final = "no code: a word in `detail` of an error, or in `why`, `reason` or `outcome` of a record"


def configure(parser: argparse.ArgumentParser) -> None:
    """One action per plane, and one for all codes, which the help does not list."""
    parser.usage = f"robin explain {' | '.join(PLANES)} | CODE ..."
    actions = parser.add_subparsers(prog="robin explain", dest="plane", required=True, metavar="PLANE | CODE")
    for name, (module, summary) in PLANES.items():
        plane = actions.add_parser(name, help=summary, allow_abbrev=False)
        import_module(module).configure(plane)
    first, *others = {**REASONS, **FAULTS, **SIGNER_CLASSES, **_WORDS, **WORDS}
    actions.add_parser(first, aliases=others, allow_abbrev=False, usage="robin explain CODE")


def run(args: argparse.Namespace) -> int:
    """0 permit, 3 escalate, 4 deny, 5 malformed request, 2 usage; of a code 0."""
    if args.plane not in PLANES:
        print("\n\n".join(explanations(args.plane)))
        return 0
    code: int = import_module(PLANES[args.plane][0]).run(args)
    return code


def explanations(code: str) -> list[str]:
    """What a public code, signer class or word of records means: of passports, of everything else, or both."""
    found = []
    if code in _WORDS:
        meaning, place = _WORDS[code]
        found.append(f"{code}: {meaning}\npage: docs/reference/gateway.md#{place}")
    if code in WORDS:
        meaning, place = WORDS[code]
        found.append(f"{code}: {meaning}\n{_NO_CODE}\npage: docs/reference/{place}")
    if code in SIGNER_CLASSES:
        found.append(f"{code}: {_CLASSES[code]}\npage: docs/reference/passports.md")
    if reason := REASONS.get(code):
        facts = (f"fix: {reason.remedy}", f"status: {reason.statuses}", f"again later: {reason.again}", "page: docs/reference/passports.md")
        found.append("\n".join((f"{code}: {reason.meaning}", *facts)))
    if kind := FAULTS.get(code):
        page = next(name for name, table in _PAGES if code in table)
        again = _MAY_PASS.get(code, "no") if kind.retry_after_s is None else "yes, after the seconds of Retry-After"
        facts = (f"source: {kind.source}", f"status: {kind.status}", f"again later: {again}", f"page: docs/reference/{page}.md")
        found.append("\n".join((f"{code}: {kind.title}", *facts)))
    return found

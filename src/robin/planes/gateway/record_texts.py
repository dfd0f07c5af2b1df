"""The records of the gateway as texts: what repeats in them is rendered once and kept, within limits.

Rules a reader must keep: what is kept is found by its own content, so that it cannot be stale; and it is of the members that a record has,
never of a request: no token, no field value, no query and no path. The members stand in the order of the line; within an object the names
are sorted, as the canonical form has them.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Final

from robin.model.address import Dialled, ResolvedAddress
from robin.model.caller import Caller
from robin.telemetry.audit_chain import Draft, RecordError, draft_of, mend, quote, render_value, template_of

_KEPT: Final = 1024
_COMMON: Final = "ts plane event id kind instance generation connect_id listener caller"
DECISION_MEMBERS: Final = (
    f"{_COMMON} op method scheme host port path tls verdict code why rule route would_deny addresses dns_ms grant".split()
)
DECISION_FIXED: Final = "generation listener op method scheme host port tls verdict code why rule route would_deny".split()
CLOSE_MEMBERS: Final = f"{_COMMON} status sni bytes_up bytes_down duration_ms ttfb_ms connect_ms tls_ms upstream grant fault reason".split()
CLOSE_FIXED: Final = "generation listener fault reason".split()
_VERDICT_AT: Final = DECISION_FIXED.index("verdict")
NULL: Final = "null"
NO_ADDRESS: Final = '{"chosen":null,"count":0,"refused":[]}'


def render_address(address: ResolvedAddress | None) -> tuple[str, str]:
    """The texts of `addresses` and `dns_ms`."""
    found = None if address is None else address.resolution
    if address is None or found is None:
        return NO_ADDRESS, NULL
    refused = ",".join([quote(str(kind)) for kind in found.refused])
    return f'{{"chosen":{quote(address.host)},"count":{found.count},"refused":[{refused}]}}', str(round(found.seconds * 1000))


def render_upstream(address: ResolvedAddress | None, dialled: Dialled | None, reused: bool | None) -> str:
    """The text of `upstream`."""
    if address is None:
        return NULL
    certificate = tls = NULL
    if dialled is not None and dialled.tls is not None:
        tls = quote(dialled.tls)
    if dialled is not None and dialled.cert_sha256 is not None:
        certificate = quote(dialled.cert_sha256)
    return (
        f'{{"cert_sha256":{certificate},"ip":{quote(address.host)},"port":{address.port},'
        f'"reused":{"true" if reused else "false"},"tls":{tls}}}'
    )


class RecordTexts:
    """Makes the drafts of the records of one gateway. `instance` is its name."""

    __slots__ = ("_callers", "_instance", "_plane", "_templates")

    def __init__(self, *, plane: str, instance: str) -> None:
        self._plane = quote(plane)
        self._instance = quote(instance)
        self._templates: dict[tuple[object, ...], str] = {}
        self._callers: dict[tuple[str, ...], str] = {}

    def caller(self, caller: Caller) -> str:
        """The text of `caller`."""
        key = caller.id, caller.evidence, caller.issuer, caller.pod, caller.address
        text = self._callers.get(key)
        if text is None:
            if len(self._callers) >= _KEPT:
                self._callers.clear()
            name, evidence, issuer, pod, address = map(quote, map(str, key))
            text = f'{{"addr":{address},"evidence":{evidence},"id":{name},"issuer":{issuer},"pod":{pod}}}'
            self._callers[key] = text
        return text

    def decision(self, fixed: tuple[object, ...], texts: Mapping[str, str], ts: str) -> Draft:
        """A `gateway.decision`: `fixed` are the values of DECISION_FIXED, `texts` has the rest. A permit's layout is kept."""
        template = self._templates.get(fixed)
        if template is None:
            template = self._lay_out("gateway.decision", DECISION_MEMBERS, dict(zip(DECISION_FIXED, fixed, strict=True)))
            if fixed[_VERDICT_AT] == "permit":  # what is denied, callers can make up without end
                self._keep(fixed, template)
        return _draft(ts, template % texts)

    def close(self, fixed: tuple[object, ...], texts: Mapping[str, str], ts: str) -> Draft:
        """A `gateway.close`: `fixed` are the values of CLOSE_FIXED, `texts` has the rest."""
        template = self._templates.get(fixed)
        if template is None:
            template = self._lay_out("gateway.close", CLOSE_MEMBERS, dict(zip(CLOSE_FIXED, fixed, strict=True)))
            self._keep(fixed, template)
        return _draft(ts, template % texts)

    def _lay_out(self, event: str, members: Sequence[str], fixed: Mapping[str, object]) -> str:
        own = {"plane": self._plane, "event": quote(event), "kind": '"gateway"', "instance": self._instance}
        texts = own | {name: render_value(value) for name, value in fixed.items()}
        return template_of({name: texts.get(name, "") for name in members}, frozenset(members) - texts.keys())

    def _keep(self, fixed: tuple[object, ...], template: str) -> None:
        if len(self._templates) >= _KEPT:
            self._templates.clear()
        self._templates[fixed] = template


def _draft(ts: str, text: str) -> Draft:
    """A record that is too large is shortened: it says less, and is never missing."""
    try:
        return Draft(ts, text)
    except RecordError:
        members = mend(json.loads("{" + text.rpartition("\0")[2]))
        assert isinstance(members, dict)
        try:
            return draft_of(members)
        except RecordError:
            return draft_of({**members, "grant": None})

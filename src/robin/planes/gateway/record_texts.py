"""The records of the gateway as texts: what repeats in them is rendered once and kept, within limits.

Rules a reader must keep: what is kept is found by its own content, or by the very object, which never changes, so that it cannot be stale;
and it is of the members that a record has, never of a request: no token, no field value, no query and no path. The members stand in the
order of the line; within an object the names are sorted, as the canonical form has them.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Final, TypeVar

from robin.model.address import Dialled, ResolvedAddress
from robin.model.caller import Caller
from robin.telemetry.audit_chain import Draft, Layout, RecordError, draft_of, mend, quote, render_value

_K = TypeVar("_K")
_V = TypeVar("_V")

_KEPT: Final = 1024
_COMMON: Final = "ts plane event id kind instance generation connect_id listener caller"
DECISION_MEMBERS: Final = (
    f"{_COMMON} op method scheme host port path tls verdict code why rule route would_deny addresses dns_ms grant".split()
)
DECISION_FIXED: Final = "generation listener op method scheme host port tls verdict code why rule route would_deny".split()
DECISION_VARYING: Final = "ts id connect_id caller path addresses dns_ms grant".split()
CLOSE_MEMBERS: Final = f"{_COMMON} status sni bytes_up bytes_down duration_ms ttfb_ms connect_ms tls_ms upstream grant fault reason".split()
CLOSE_FIXED: Final = "generation listener fault reason".split()
CLOSE_VARYING: Final = "ts id connect_id caller status sni bytes_up bytes_down duration_ms ttfb_ms connect_ms tls_ms upstream grant".split()
NULL: Final = "null"
NO_ADDRESS: Final = '{"chosen":null,"count":0,"refused":[]}'


def _render_address(address: ResolvedAddress) -> tuple[str, str]:
    found = address.resolution
    if found is None:
        return NO_ADDRESS, NULL
    refused = ",".join([quote(str(kind)) for kind in found.refused])
    return f'{{"chosen":{quote(address.host)},"count":{found.count},"refused":[{refused}]}}', str(round(found.seconds * 1000))


def _render_upstream(address: ResolvedAddress, dialled: Dialled | None, reused: bool | None) -> str:
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

    __slots__ = ("_addresses", "_callers", "_instance", "_layouts", "_plane", "_upstreams")

    def __init__(self, *, plane: str, instance: str) -> None:
        self._plane = quote(plane)
        self._instance = quote(instance)
        self._layouts: dict[tuple[object, ...], Layout] = {}
        self._callers: dict[tuple[str, ...], str] = {}
        self._addresses: dict[int, tuple[ResolvedAddress, tuple[str, str]]] = {}  # by identity, as the next
        self._upstreams: dict[tuple[int, int, bool | None], tuple[ResolvedAddress, Dialled | None, str]] = {}

    def caller(self, caller: Caller) -> str:
        """The text of `caller`."""
        key = caller.id, caller.evidence, caller.issuer, caller.pod, caller.address
        text = self._callers.get(key)
        if text is None:
            name, evidence, issuer, pod, address = map(quote, map(str, key))
            text = f'{{"addr":{address},"evidence":{evidence},"id":{name},"issuer":{issuer},"pod":{pod}}}'
            keep(self._callers, key, text)
        return text

    def address(self, address: ResolvedAddress | None) -> tuple[str, str]:
        """The texts of `addresses` and `dns_ms`."""
        if address is None:
            return NO_ADDRESS, NULL
        known = self._addresses.get(id(address))
        if known is None or known[0] is not address:
            known = address, _render_address(address)
            keep(self._addresses, id(address), known)
        return known[1]

    def upstream(self, address: ResolvedAddress | None, dialled: Dialled | None, reused: bool | None) -> str:
        """The text of `upstream`."""
        if address is None:
            return NULL
        key = id(address), id(dialled), reused
        known = self._upstreams.get(key)
        if known is None or known[0] is not address or known[1] is not dialled:
            known = address, dialled, _render_upstream(address, dialled, reused)
            keep(self._upstreams, key, known)
        return known[2]

    def decision(self, fixed: tuple[object, ...]) -> Layout:
        """The layout of `gateway.decision` with these values of DECISION_FIXED. That of a permit is kept."""
        layout = self._layouts.get(fixed)
        if layout is None:
            members = dict(zip(DECISION_FIXED, fixed, strict=True))
            layout = self._lay_out("gateway.decision", DECISION_MEMBERS, members, DECISION_VARYING)
            if members["verdict"] == "permit":  # what is denied, callers can make up without end
                keep(self._layouts, fixed, layout)
        return layout

    def close(self, fixed: tuple[object, ...]) -> Layout:
        """The layout of `gateway.close` with these values of CLOSE_FIXED."""
        layout = self._layouts.get(fixed)
        if layout is None:
            layout = self._lay_out("gateway.close", CLOSE_MEMBERS, dict(zip(CLOSE_FIXED, fixed, strict=True)), CLOSE_VARYING)
            keep(self._layouts, fixed, layout)
        return layout

    def _lay_out(self, event: str, members: Sequence[str], fixed: Mapping[str, object], varying: Sequence[str]) -> Layout:
        own = {"plane": self._plane, "event": quote(event), "kind": '"gateway"', "instance": self._instance}
        texts = own | {name: render_value(value) for name, value in fixed.items()}
        return Layout({name: texts.get(name, "") for name in members}, varying)


def keep(table: dict[_K, _V], key: _K, value: _V) -> None:
    """Keep it in a table of at most _KEPT: when there are more, all are forgotten."""
    if len(table) >= _KEPT:
        table.clear()
    table[key] = value


def draft(layout: Layout, ts: str, values: Sequence[str]) -> Draft:
    """The draft of a record. One that is too large is shortened: it says less, and is never missing."""
    try:
        return layout.draft(ts, values)
    except RecordError:
        members = mend(json.loads("{" + layout.tail(values)))
        assert isinstance(members, dict)
        try:
            return draft_of(members)
        except RecordError:
            return draft_of({**members, "grant": None})

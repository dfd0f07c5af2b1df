"""What records and metrics have about the credentials of an exchange, and about calls to issuers of tokens.

The `token_hash` of an exchange is that of the call that its token came from. Nothing here holds a token.
"""

from collections.abc import Mapping
from typing import Final

from robin.grants.bound import BoundCredentials
from robin.grants.grant import GrantCall
from robin.model.verdict import Permit
from robin.telemetry.audit_chain import render_mended
from robin.telemetry.record import ExchangeRecord

_FIELDS: Final = (
    "provider credential binding kind cache token_hash assertion_hash identity_sub issuer_origin audience scope_requested scope_granted "
    "usable_s"
).split()
_KEPT: Final = 128


def _render_all(described: list[dict[str, object]], *, fault: str = "", replayed: bool = False, forced: bool = False) -> str:
    grants = [_render(one, fault=fault, replayed=replayed, forced=forced) for one in described]
    return render_mended(grants[0] if len(grants) == 1 else grants or None)


def _render(
    facts: Mapping[str, object], *, fault: str, replayed: bool = False, forced: bool = False, issuer_error: str = ""
) -> dict[str, object]:
    shown = {name: facts.get(name) for name in _FIELDS}
    ended = {"fault": fault, "issuer_error": issuer_error, "issuer_request_id": facts.get("issuer_request_id")}
    return {**shown, "forced": forced, "replayed": replayed, **ended}


class _Noted:
    """The credentials of an exchange: as they were described, the text of that in a record, and the labels of what is counted of them."""

    __slots__ = ("described", "found", "text", "written")

    def __init__(self, described: list[dict[str, object]]) -> None:
        self.described = described
        self.text = _render_all(described)
        providers = [str(one.get("provider", "")) for one in described]
        self.found = [(provider, str(one["cache"])) for provider, one in zip(providers, described, strict=True)]
        self.written = [(provider, str(one.get("style", ""))) for provider, one in zip(providers, described, strict=True)]


_NONE: Final = _Noted([])


class GrantRecords:
    """Describes and counts the credentials of exchanges. An exchange without one is passed over."""

    __slots__ = ("_credentials", "_noted")

    def __init__(self, credentials: BoundCredentials | None) -> None:
        """None: no exchange has any."""
        self._credentials = credentials
        self._noted: dict[int, _Noted] = {}  # by the identity of a description, which is the same as long as it says the same

    def note(self, record: ExchangeRecord, permit: Permit) -> None:
        """Keep what the request is about to be sent with."""
        if permit.route.grant and self._credentials is not None:
            record.notes["grants"] = self._describe(self._credentials, permit, record)

    def render(self, record: ExchangeRecord, code: str = "") -> str:
        """The text of null, one object, or a list of them where several fields are written. `code`: why the exchange was refused."""
        noted = self._find(record)
        replayed = record.notes.get("replayed")
        if not code and replayed is None:
            return noted.text
        return _render_all(noted.described, fault=code, replayed=replayed is True, forced=replayed is not None)

    def count(self, record: ExchangeRecord, *, sent: bool) -> None:
        """Count how the credentials were found, and that they were written if the request was `sent`."""
        if self._credentials is None:
            return
        metrics, noted = self._credentials.metrics, self._find(record)
        for labels in noted.found:
            metrics.cache[labels] += 1
        if sent:
            for labels in noted.written:
                metrics.injections[labels] += 1

    def count_end(self, record: ExchangeRecord) -> None:
        """Count what the response led to, where `replayed` or `echoed` is noted."""
        if self._credentials is None:
            return
        notes, metrics = record.notes, self._credentials.metrics
        for provider, _ in self._find(record).found:
            if "echoed" in notes:
                metrics.redacted[provider] += 1
            if "replayed" in notes:
                result = ("rejected" if record.upstream_status == 401 else "accepted") if notes["replayed"] else "not_replayable"
                metrics.replays[provider, result] += 1

    def _find(self, record: ExchangeRecord) -> _Noted:
        """As they were when the request was sent, or as they are."""
        noted, permit = record.notes.get("grants"), record.verdict
        if isinstance(noted, _Noted):
            return noted
        if not isinstance(permit, Permit) or not permit.route.grant or self._credentials is None:
            return _NONE
        return self._describe(self._credentials, permit, record)

    def _describe(self, credentials: BoundCredentials, permit: Permit, record: ExchangeRecord) -> _Noted:
        described = credentials.describe(permit, record.notes)
        noted = self._noted.get(id(described))
        if noted is None or noted.described is not described:
            if len(self._noted) >= _KEPT:
                self._noted.clear()
            noted = self._noted[id(described)] = _Noted(described)
        return noted


def render_call(call: GrantCall) -> dict[str, object]:
    """The fields of the record of one call to an issuer."""
    fault = "" if call.outcome == "issued" else call.outcome
    grant = _render(call.facts, fault=fault, issuer_error=call.issuer_error)
    return {"grant": grant, "status": call.status, "duration_ms": round(call.duration_s * 1000)}

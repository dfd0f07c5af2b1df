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


_RENDERED_KEPT: Final = 128


class GrantRecords:
    """Describes and counts the credentials of exchanges. An exchange without one is passed over."""

    __slots__ = ("_credentials", "_rendered")

    def __init__(self, credentials: BoundCredentials | None) -> None:
        """None: no exchange has any."""
        self._credentials = credentials
        self._rendered: dict[
            int, tuple[list[dict[str, object]], str]
        ] = {}  # by identity: descriptions are the same as long as they say the same

    def note(self, record: ExchangeRecord, permit: Permit) -> None:
        """Keep what the request is about to be sent with."""
        if permit.route.grant and self._credentials is not None:
            record.notes["grants"] = self._credentials.describe(permit, record.notes)

    def render(self, record: ExchangeRecord, code: str = "") -> str:
        """The text of null, one object, or a list of them where several fields are written. `code`: why the exchange was refused."""
        noted = record.notes.get("grants")
        found = noted if isinstance(noted, list) else self._described(record)
        if not found:
            return "null"
        replayed = record.notes.get("replayed")
        usual = not code and replayed is None
        if usual and (known := self._rendered.get(id(found))) is not None and known[0] is found:
            return known[1]
        grants = [_render(one, fault=code, replayed=replayed is True, forced=replayed is not None) for one in found]
        text = render_mended(grants[0] if len(grants) == 1 else grants)
        if usual:
            if len(self._rendered) >= _RENDERED_KEPT:
                self._rendered.clear()
            self._rendered[id(found)] = found, text
        return text

    def count(self, record: ExchangeRecord, *, sent: bool) -> None:
        """Count how the credentials were found, and that they were written if the request was `sent`."""
        if self._credentials is None:
            return
        metrics = self._credentials.metrics
        for one in self._described(record):
            provider = str(one.get("provider", ""))
            metrics.cache[provider, str(one["cache"])] += 1
            if sent:
                metrics.injections[provider, str(one.get("style", ""))] += 1

    def count_end(self, record: ExchangeRecord) -> None:
        """Count what the response led to."""
        if self._credentials is None:
            return
        notes, metrics = record.notes, self._credentials.metrics
        if "replayed" not in notes and "echoed" not in notes:
            return
        for one in self._described(record):
            provider = str(one.get("provider", ""))
            if "echoed" in notes:
                metrics.redacted[provider] += 1
            if "replayed" in notes:
                result = ("rejected" if record.upstream_status == 401 else "accepted") if notes["replayed"] else "not_replayable"
                metrics.replays[provider, result] += 1

    def _described(self, record: ExchangeRecord) -> list[dict[str, object]]:
        """As they were when the request was sent, or as they are."""
        permit, found = record.verdict, record.notes.get("grants")
        if isinstance(found, list) or not isinstance(permit, Permit) or not permit.route.grant or self._credentials is None:
            return found if isinstance(found, list) else []
        return self._credentials.describe(permit, record.notes)


def render_call(call: GrantCall) -> dict[str, object]:
    """The fields of the record of one call to an issuer."""
    fault = "" if call.outcome == "issued" else call.outcome
    grant = _render(call.facts, fault=fault, issuer_error=call.issuer_error)
    return {"grant": grant, "status": call.status, "duration_ms": round(call.duration_s * 1000)}


def _render(
    facts: Mapping[str, object], *, fault: str, replayed: bool = False, forced: bool = False, issuer_error: str = ""
) -> dict[str, object]:
    shown = {name: facts.get(name) for name in _FIELDS}
    ended = {"fault": fault, "issuer_error": issuer_error, "issuer_request_id": facts.get("issuer_request_id")}
    return {**shown, "forced": forced, "replayed": replayed, **ended}

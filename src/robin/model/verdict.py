"""The outcome of policy: Permit, Denial or LocalResponse; no default, silence denies."""

from dataclasses import dataclass

from robin.model.caller import Caller
from robin.model.origin import Origin
from robin.model.route import Endpoint, Route


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Permit:
    """Leave to contact one endpoint on behalf of one caller. Constructed in `policy/` only; no Permit, no network.

    `target`: the request target to send, None for the caller's own behind `route.base_path`.
    """

    route: Route
    endpoint: Endpoint
    target: bytes | None
    caller: Caller


@dataclass(frozen=True, slots=True, kw_only=True)
class Denial:
    """A refusal by policy. `code` is one of `faults.FAULTS`; `detail` starts with a reason word.

    `rule` names the rule that refused, `origin` what was asked for, where there is such a thing.
    """

    code: str
    detail: str
    rule: str = ""
    origin: Origin | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalResponse:
    """The proxy answers by itself and no origin is contacted. `fields` are whole header lines with their CRLF, without framing."""

    status: int
    fields: bytes = b""
    body: bytes = b""


Verdict = Permit | Denial | LocalResponse

"""The outcome of policy: Permit, Denial or LocalResponse; no default, silence denies."""

from collections.abc import Callable
from dataclasses import dataclass

from robin.model.caller import Caller
from robin.model.message import HeldBody
from robin.model.origin import Origin
from robin.model.route import Endpoint, Route
from robin.model.secret import Secret


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Permit:
    """Leave to contact one endpoint on behalf of one caller. Constructed in `policy/` only; no Permit, no network.

    `target`: the request target to send, None for the caller's own behind `route.base_path`. `subjects`: the tokens that the caller sent to
    be exchanged, each with the canonical name of its field.
    """

    route: Route
    endpoint: Endpoint
    target: bytes | None
    caller: Caller
    subjects: tuple[tuple[str, Secret], ...] = ()


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


@dataclass(frozen=True, slots=True, kw_only=True)
class BodyNeeded:
    """The policy cannot decide by the head: the body is received whole, at most `limit_bytes`, and `decide` is called with it. Pure."""

    limit_bytes: int
    idle_s: float
    decide: Callable[[HeldBody], Permit | Denial | LocalResponse]


Verdict = Permit | Denial | LocalResponse | BodyNeeded

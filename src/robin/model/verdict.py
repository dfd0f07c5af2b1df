"""The outcome of policy: Permit or Denial, nothing between, no default; silence denies."""

from dataclasses import dataclass

from robin.model.origin import Origin


@dataclass(frozen=True, slots=True, kw_only=True)
class Permit:
    """Leave to contact one origin on behalf of one caller. `dial`, `acquire` and `obtain` take one: no Permit, no network."""

    origin: Origin
    base_path: bytes
    grant: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Denial:
    """A refusal by policy. `code` is one of `faults.FAULTS`; `detail` starts with a reason word and names the fix."""

    code: str
    detail: str


Verdict = Permit | Denial

"""`chain`: two to four grants, each of which exchanges the token of the one before."""

from dataclasses import replace
from typing import Any, Final

from robin.config.compiling import Compiling
from robin.config.grant_kinds.kind import OF_CALLS, GrantKind, Reading
from robin.config.profile_parts import TokenGrant
from robin.grants.settings import GrantPlan

_FEWEST: Final = 2
_EXCHANGES: Final = ("token_exchange", "jwt_bearer")
_FIRST: Final = ("client_credentials", *_EXCHANGES)


def _read(reading: Reading) -> tuple[TokenGrant, ...]:
    keys, stages = reading.keys, reading.stages
    if len(stages) < _FEWEST:
        reading.findings.error(keys.place("stages"), "value_invalid", "a chain has two to four stages", "add `stages`")
    for at, stage in enumerate(stages):
        kinds = _EXCHANGES if at else _FIRST
        if stage.kind not in kinds:
            text = f"{stage.kind} cannot be stage {at + 1} of a chain"
            reading.findings.error(stage.at, "value_invalid", text, f"use {', '.join(kinds)}")
    return stages


def _compile(compiling: Compiling, grant: TokenGrant) -> GrantPlan | None:
    """What an override asks for, and how long the token is kept, concern the last stage."""
    stages = grant.options
    assert isinstance(stages, tuple)
    last = stages[-1]
    last = replace(
        last,
        audience=grant.audience or last.audience,
        scopes=grant.scopes or last.scopes,
        resources=grant.resources or last.resources,
        cap_s=grant.cap_s,
    )
    found: GrantPlan | None = None
    for stage in (*(replace(one, intermediate=True) for one in stages[:-1]), last):
        plan = compiling.compile_stage(compiling, stage)
        if plan is None:
            return None
        first = plan.stages[0]
        assert first is plan or found is None  # a stage of two stages has a subject of a file, so it is the first one
        found = plan if found is None else replace(plan, previous=found)
    return found


def _is_of_others(stages: Any) -> bool:
    from robin.config.grant_kinds.catalog import KINDS  # noqa: PLC0415 - the table has this kind too

    return any(KINDS[one.kind].others_tokens(one.options) for one in stages)


CHAIN: Final = GrantKind(
    name="chain",
    compile=_compile,
    read=_read,
    calls_token_endpoint=False,
    others_tokens=_is_of_others,
    no_effect=OF_CALLS,
)

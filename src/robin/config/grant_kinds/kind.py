"""A kind of grant in profiles: its own keys, how they are read, what of them a pin holds, and how a credential with it is compiled."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from robin.config.compiling import Compiling
from robin.config.profile_keys import Findings, Keys
from robin.config.profile_parts import TokenGrant
from robin.config.schema import Field
from robin.grants.settings import ClientAuth, GrantPlan

PARAMETERS: Final = frozenset(
    "grant_type client_assertion_type client_assertion client_id client_secret audience resource scope assertion subject_token "
    "subject_token_type actor_token actor_token_type requested_token_type".split()
)
"""The parameters of token endpoints that no `extra_params` may name."""

OF_CALLS: Final = frozenset(
    "preset token_endpoint issuer jwt_svid_audience client_assertion_type client_auth client_id extra_params check_scope check_audience "
    "fresh_assertion".split()
)
"""The keys about one call to an issuer."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Reading:
    """A token_grant whose own keys a kind reads. `stages` are those of a chain; `stage` its place among them, None outside of one."""

    keys: Keys
    findings: Findings
    stages: tuple[TokenGrant, ...] = ()
    stage: int | None = None


def _no_options(_reading: Reading) -> object:
    return None


def _no_pin(_options: Any) -> dict[str, object]:
    return {}


@dataclass(frozen=True, slots=True, kw_only=True)
class GrantKind:
    """One kind. Several kinds may have one key; the schema has it once.

    `read` makes `TokenGrant.options` of them; `pinned` is what of the options a pin holds; `compile` returns None where it noted an error.
    `calls_token_endpoint`: `token_endpoint` is required. `client_auth` is the default. `parameters`: names that are not for `extra_params`.
    `others_tokens`: whether the issuer gets a token that is not the identity's own. `no_effect`: common keys that are refused with it.
    `preset`: whose defaults it has, named or not.
    """

    name: str
    compile: Callable[[Compiling, TokenGrant], GrantPlan | None]
    fields: tuple[Field, ...] = ()
    read: Callable[[Reading], object] = _no_options
    pinned: Callable[[Any], dict[str, object]] = _no_pin
    calls_token_endpoint: bool = True
    client_auth: ClientAuth = "identity"
    parameters: frozenset[str] = PARAMETERS
    others_tokens: Callable[[Any], bool] = lambda _options: False
    no_effect: frozenset[str] = frozenset()
    preset: str = ""

"""What the kinds of the clouds share: keys that have no meaning there, and the plan, with the warning about an endpoint of another."""

import re
from dataclasses import replace
from typing import Final

from robin.config.compiling import Compiling
from robin.config.grant_kinds.kind import Reading
from robin.config.profile_parts import TokenGrant
from robin.grants.cloud_settings import CloudSettings, is_of_vendor
from robin.grants.settings import GrantPlan

_ALWAYS: Final = (
    *("issuer", "audience", "resource", "client_auth", "client_assertion_type", "extra_params", "check_audience", "fresh_assertion"),
    "audience_overrides",
)


def refuse_keys(reading: Reading, kind: str, *more: str) -> None:
    """Note each key that this kind has no use for, and that it is no stage of a chain."""
    keys, error = reading.keys, reading.findings.error
    for name in (*_ALWAYS, *more):
        if keys.has(name):
            text = f"{name} is no key of grant_type {kind}"
            error(keys.place(name), "value_invalid", text, "remove it; other scopes or roles need a profile of their own")
    if reading.stage is not None:
        error(keys.at, "value_invalid", f"grant_type {kind} is no stage of a chain", "use it alone")


def check_form(reading: Reading, name: str, pattern: str, code: str, form: str) -> str:
    """The text of a key, which is empty or has a form; `form` is shown where it has another."""
    text = reading.keys.text(name)
    if text and re.fullmatch(pattern, text) is None:
        reading.findings.error(reading.keys.place(name), code, f"{name} is not {form}", "copy it from the console of the cloud")
    return text


def plan_of_cloud(compiling: Compiling, grant: TokenGrant, settings: CloudSettings) -> GrantPlan | None:
    """The plan of settings that hold the keys of their kind; what all clouds have is filled in.

    None where the endpoint cannot be called; a warning where it is not the cloud's own.
    """
    if not compiling.check_endpoint(grant):
        return None
    if not is_of_vendor(grant.kind, grant.token_endpoint):
        text = f"identity tokens for {compiling.label} are sent to {grant.token_endpoint}, which is not the cloud's own endpoint"
        compiling.warn(grant.endpoint_at, "endpoint_overridden", text, "remove it unless a private cloud or a test has this address")
    audience = compiling.assertion_audience(grant, sent=True)
    whole = replace(
        settings, token_endpoint=grant.token_endpoint, assertion_audience=audience, cap_s=grant.cap_s, issuer=compiling.settings.issuer
    )
    return compiling.plan(identity=compiling.identity(audience), audience=audience, settings=whole)

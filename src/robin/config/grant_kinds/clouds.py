"""What the kinds of the clouds share: keys that have no meaning there, and the warning about an endpoint that is not the cloud's own."""

import re
from typing import Final

from robin.config.compiling import Compiling
from robin.config.grant_kinds.kind import Reading
from robin.config.profile_parts import TokenGrant
from robin.grants.cloud_settings import is_of_vendor

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


def is_callable(compiling: Compiling, grant: TokenGrant) -> bool:
    """Whether the endpoint can be called; a warning where it is not the cloud's."""
    if not compiling.check_endpoint(grant):
        return False
    if not is_of_vendor(grant.kind, grant.token_endpoint):
        text = f"identity tokens for {compiling.label} are sent to {grant.token_endpoint}, which is not the cloud's own endpoint"
        compiling.warn(grant.endpoint_at, "endpoint_overridden", text, "remove it unless a private cloud or a test has this address")
    return True

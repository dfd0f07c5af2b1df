"""Grant `forward`: no issuer is called; the credential is the identity token itself, as `Authorization: Bearer` (RFC 6750 section 2.1).

Security: a reader of this line can act as the workload at every place that accepts the token's audience, until it expires.
"""

from robin.grants.grant import Flow, Inputs, IssuedCredential
from robin.model.secret import Secret


def flow(inputs: Inputs, now: float) -> Flow:
    """Return the identity token as one header line, usable for as long as the token."""
    yield from ()
    identity = inputs.identity
    assert identity is not None
    line = Secret(b"Authorization: Bearer " + identity.value.reveal() + b"\r\n")
    return IssuedCredential(fields=(line,), usable_s=identity.usable_until - now)

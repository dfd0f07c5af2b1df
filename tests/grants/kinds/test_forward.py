"""Grant `forward`: the token as one Authorization line, built once per token."""

import pytest
from tests.permits import permit_to

from robin.grants.kinds.forward import Forward
from robin.model.credential import Credential
from robin.model.faults import Fault
from robin.model.identity import IdentityStatus, IdentityToken
from robin.model.origin import Origin
from robin.model.secret import Secret
from robin.testing.tokens import make_token
from robin.wire.jwt_inspection import TokenRules, fingerprint, inspect_token

PERMIT = permit_to(Origin(scheme="https", host="broker.example", port=443, authority=b"broker.example"))


class HandHeld:
    """An identity whose token the test puts in place."""

    def __init__(self) -> None:
        self.token: IdentityToken | None = None
        self.refused: list[IdentityToken] = []

    def ready(self) -> IdentityToken | None:
        return self.token

    async def obtain(self) -> IdentityToken:
        if self.token is None:
            raise Fault("identity_unavailable", "missing: no token; mount it")
        return self.token

    def rejected(self, token: IdentityToken) -> None:
        self.refused.append(token)

    def status(self) -> IdentityStatus:
        raise AssertionError("a grant asks for tokens, not for the state")

    async def start(self) -> None:
        raise AssertionError("the app starts identities")

    async def close(self) -> None:
        raise AssertionError("the app closes identities")

    def wake(self) -> None:
        raise AssertionError("the app wakes identities")


def new_token() -> tuple[bytes, IdentityToken]:
    text = make_token(expires_at=2_000_000_000)
    return text, inspect_token(Secret(text), TokenRules(), now=1_780_000_000)


def line_of(credential: Credential | None) -> bytes:
    assert credential is not None
    return fingerprint(credential.field)


async def test_the_credential_is_the_whole_authorization_line() -> None:
    identity = HandHeld()
    text, identity.token = new_token()
    credential = Forward(identity).ready(PERMIT)
    assert line_of(credential) == fingerprint(Secret(b"Authorization: Bearer " + text + b"\r\n"))
    assert credential is not None
    assert (credential.grant, credential.identity) == ("forward", identity.token)


async def test_the_line_is_built_once_per_token() -> None:
    identity = HandHeld()
    forward = Forward(identity)
    _, identity.token = new_token()
    first = forward.ready(PERMIT)
    assert forward.ready(PERMIT) is first
    assert await forward.obtain(PERMIT) is first
    text, identity.token = new_token()
    second = await forward.obtain(PERMIT)
    assert second is not first
    assert forward.ready(PERMIT) is second
    assert line_of(second) == fingerprint(Secret(b"Authorization: Bearer " + text + b"\r\n"))
    text, identity.token = new_token()
    assert line_of(forward.ready(PERMIT)) == fingerprint(Secret(b"Authorization: Bearer " + text + b"\r\n"))


async def test_without_a_token_nothing_is_ready_and_the_fault_passes_through() -> None:
    identity = HandHeld()
    forward = Forward(identity)
    _, identity.token = new_token()
    assert forward.ready(PERMIT) is not None
    identity.token = None
    assert forward.ready(PERMIT) is None
    with pytest.raises(Fault) as raised:
        await forward.obtain(PERMIT)
    assert raised.value.code == "identity_unavailable"


async def test_a_refused_credential_is_a_refused_token() -> None:
    identity = HandHeld()
    _, identity.token = new_token()
    forward = Forward(identity)
    credential = forward.ready(PERMIT)
    assert credential is not None
    forward.rejected(PERMIT, credential)
    assert identity.refused == [identity.token]


def test_the_credential_shows_nothing() -> None:
    identity = HandHeld()
    text, identity.token = new_token()
    shown = repr(Forward(identity).ready(PERMIT))
    assert not any(part in shown for part in text.decode().split("."))

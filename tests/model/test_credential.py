"""A credential shows neither its field nor the token it came from."""

from robin.model.credential import Credential
from robin.model.identity import IdentityToken
from robin.model.secret import Secret


def test_a_credential_never_shows_its_field_or_its_token() -> None:
    token = IdentityToken(
        value=Secret(b"canary-token"),
        subject="alice",
        audiences=("a",),
        expires_at=1.0,
        not_before_at=None,
        seen_at=0.0,
        usable_until=0.9,
    )
    credential = Credential(fields=(Secret(b"Authorization: Bearer canary-token\r\n"),), note="forward", identity=token)
    for shown in (repr(credential), str(credential), f"{credential}", f"{credential!r:>500}", repr([credential])):
        assert "canary" not in shown
        assert "alice" in shown

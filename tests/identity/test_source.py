"""The values of the source seam show nothing of a token."""

from robin.identity.source import Outlook, RawIdentity, SourceFailure
from robin.model.secret import Secret


def test_a_raw_identity_hides_its_text() -> None:
    raw = RawIdentity(text=Secret(b"eyJ.a.b"), issued_to="spiffe://example.org/app")
    assert "eyJ" not in repr(raw)
    assert raw.warning == ""


def test_a_failure_may_pass_unless_it_says_otherwise() -> None:
    failure = SourceFailure("missing", "missing: no file; mount it")
    assert (failure.outlook, failure.fault) == (Outlook.RETRY, "identity_unavailable")
    assert str(failure) == "('missing', 'missing: no file; mount it')"

"""Identity values: frozen, with a hidden token, and words that probes show."""

from dataclasses import FrozenInstanceError

import pytest

from robin.model.identity import IdentityState, IdentityStatus, IdentityToken
from robin.model.secret import Secret


def test_the_states_are_those_of_the_admin_plane() -> None:
    assert {str(state) for state in IdentityState} == {"fresh", "stale", "expired", "missing", "refused"}


def test_a_token_hides_its_value_and_cannot_be_changed() -> None:
    token = IdentityToken(
        value=Secret(b"canary"), subject=None, audiences=(), expires_at=None, not_before_at=None, seen_at=5.0, usable_until=float("inf")
    )
    assert "canary" not in repr(token)
    with pytest.raises(FrozenInstanceError):
        token.usable_until = 9e9  # type: ignore[misc]


def test_a_status_has_no_room_for_a_subject_an_audience_or_a_token() -> None:
    assert set(IdentityStatus.__slots__) == {"source", "state", "expires_in_s", "usable", "reasons"}

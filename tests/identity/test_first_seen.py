"""A token is as old as its first sighting, until another one is met."""

from robin.identity.first_seen import FirstSeen
from robin.model.secret import Secret


def test_a_token_keeps_its_first_sighting_and_another_one_has_its_own() -> None:
    seen = FirstSeen()
    assert seen.when(Secret(b"a.b.c"), 10.0) == 10.0
    assert seen.when(Secret(b"a.b.c"), 20.0) == 10.0
    assert seen.when(Secret(b"d.e.f"), 30.0) == 30.0
    assert seen.when(Secret(b"a.b.c"), 40.0) == 40.0


def test_it_holds_no_token() -> None:
    seen = FirstSeen()
    seen.when(Secret(b"canary"), 1.0)
    assert all(b"canary" not in str(getattr(seen, slot)).encode() for slot in FirstSeen.__slots__)

"""A verdict is a Permit or a Denial, spoken in full: nothing has a default."""

import pytest

from robin.model.origin import Origin
from robin.model.verdict import Denial, Permit

ORIGIN = Origin(scheme="https", host="broker.test", port=443, authority=b"broker.test")


def test_no_part_of_a_permit_has_a_default() -> None:
    whole = {"origin": ORIGIN, "base_path": b"", "grant": "forward"}
    assert Permit(**whole).origin is ORIGIN  # type: ignore[arg-type]
    for name in whole:
        with pytest.raises(TypeError):
            Permit(**{key: value for key, value in whole.items() if key != name})  # type: ignore[arg-type]


def test_a_denial_is_no_permit_and_leads_nowhere() -> None:
    denial = Denial(code="host_not_allowed", detail="host: no")
    assert not isinstance(denial, Permit)
    assert not hasattr(denial, "origin")

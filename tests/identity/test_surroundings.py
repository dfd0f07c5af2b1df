"""The log of the telemetry floor is a Log of the identity floor."""

import inspect

import pytest
from tests.identity.room import Room

from robin.identity.surroundings import Log
from robin.telemetry.logs import EventLog


@pytest.mark.parametrize("level", ["info", "warning", "error"])
def test_the_event_log_takes_what_identities_say(level: str) -> None:
    assert hasattr(Log, level)
    signature = inspect.signature(getattr(EventLog, level))
    signature.bind(None, "identity_renewed", source="file", code="x", detail="y", expires_in_s=1.0)


def test_surroundings_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        Room().surroundings().log = None  # type: ignore[misc, assignment]

"""Both keepers are an Identity: the floors above need not know which one they hold."""

import inspect

import pytest

from robin.identity.identity import Identity
from robin.identity.keeper import Keeper
from robin.identity.watch import FileWatch

METHODS = [name for name, value in vars(Identity).items() if inspect.isfunction(value) and not name.startswith("_")]


@pytest.mark.parametrize("kept", [FileWatch, Keeper])
@pytest.mark.parametrize("method", METHODS)
def test_a_keeper_has_each_method_with_the_same_signature(kept: type, method: str) -> None:
    assert inspect.signature(getattr(kept, method)) == inspect.signature(getattr(Identity, method))
    assert inspect.iscoroutinefunction(getattr(kept, method)) == inspect.iscoroutinefunction(getattr(Identity, method))


def test_an_identity_has_seven_methods() -> None:
    assert METHODS == ["ready", "obtain", "rejected", "status", "start", "close", "wake"]

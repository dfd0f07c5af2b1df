"""Every grant kind speaks the Credentials of the engine."""

import inspect

import pytest

from robin.grants.catalog import GRANTS
from robin.grants.grant import Credentials


@pytest.mark.parametrize("kind", sorted(GRANTS))
@pytest.mark.parametrize("method", ["ready", "obtain", "rejected"])
def test_a_kind_has_each_method_with_the_same_signature(kind: str, method: str) -> None:
    made = getattr(GRANTS[kind], method)
    assert inspect.signature(made) == inspect.signature(getattr(Credentials, method))
    assert inspect.iscoroutinefunction(made) == inspect.iscoroutinefunction(getattr(Credentials, method))

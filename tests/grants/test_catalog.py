"""Grant kinds are an explicit table."""

from robin.grants.catalog import GRANTS
from robin.grants.kinds.forward import Forward


def test_the_sidecar_knows_one_grant() -> None:
    assert {"forward": Forward} == GRANTS

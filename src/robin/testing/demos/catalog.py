"""Which demonstrations there are. One is a line here and a module `robin.testing.demos.<name>`, imported only when it is asked for."""

from collections.abc import Mapping
from importlib import import_module
from typing import Final

from robin.testing.demos.demo import Demonstrate

DEMOS: Final[Mapping[str, str]] = {"gateway": "a forward proxy with rules and a TLS bridge"}
"""What each shows, in a few words."""


def find_demo(name: str) -> Demonstrate:
    """The function of a demonstration that is in the table."""
    demonstrate: Demonstrate = import_module(f"robin.testing.demos.{name}").run
    return demonstrate

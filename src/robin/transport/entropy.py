"""The only source of entropy: random bytes and uniform draws; they come in as arguments elsewhere."""

import random
import secrets
from typing import Protocol


class Entropy(Protocol):
    """What the engine asks of chance."""

    def token_hex(self, size: int) -> str:
        """`size` unpredictable bytes, as lower-case hex."""
        ...

    def uniform(self) -> float:
        """A float in [0, 1)."""
        ...


class SystemEntropy:
    """The machine's entropy."""

    __slots__ = ()

    def token_hex(self, size: int) -> str:
        """`size` bytes of the kernel's generator, as hex."""
        return secrets.token_hex(size)

    def uniform(self) -> float:
        """A draw for jitter: not a secret."""
        return random.random()  # noqa: S311 - jitter only

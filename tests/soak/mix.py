"""The traffic mix: every kind of exchange, how often it comes, and the bytes that belong to one id; both ends work them out alone.

A body is a window into one fixed pseudo-random pattern, placed by the id: a byte of another exchange, a byte lost or doubled, is seen.
"""

import random
import zlib
from dataclasses import dataclass

_PATTERN_BYTES = 1 << 21
_PLACES = 1 << 20
PATTERN = random.Random("robin soak").randbytes(_PATTERN_BYTES)
BODY_MAX = _PATTERN_BYTES - _PLACES

AUDIENCE = "soak.robin.test"
PLACEHOLDER = "placeholder-the-application-holds"  # what callers send as their own Authorization: must never arrive


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """One kind of exchange. `weight`: its share of all; `again`: Robin may send it once more on a new connection (J3).

    `answered_by`: the status of a right answer. `whole`: the upstream gets its request whole whenever the answer is right.
    """

    name: str
    weight: float
    method: str = "GET"
    answered_by: int = 200
    again: bool = True
    whole: bool = True
    smallest: int = 0
    largest: int = 0


# No body read yet and a method of J3: `again`. Weights are of exchanges; a pipeline begins `PIPELINED` of them at once.
KINDS = (
    Kind(name="get", weight=52, smallest=1, largest=4096),
    Kind(name="head", weight=2, method="HEAD", smallest=1, largest=4096),
    Kind(name="delete", weight=2, method="DELETE", smallest=1, largest=64),
    Kind(name="post", weight=20, method="POST", answered_by=201, again=False, smallest=1, largest=8192),
    Kind(name="split", weight=4, method="POST", answered_by=201, again=False, smallest=2, largest=20_000),
    Kind(name="chunked", weight=4, method="POST", answered_by=201, again=False, smallest=1, largest=40_000),
    Kind(name="expect", weight=1.5, method="POST", answered_by=201, again=False, smallest=1, largest=20_000),
    Kind(name="denied", weight=0.5, method="POST", answered_by=403, again=False, whole=False, smallest=1, largest=20_000),
    Kind(name="early", weight=0.3, method="POST", answered_by=413, again=False, whole=False, smallest=BODY_MAX - 1, largest=BODY_MAX),
    Kind(name="pipeline", weight=5, smallest=1, largest=4096),
    Kind(name="http10", weight=3, smallest=1, largest=20_000),
    Kind(name="sse", weight=1),
    Kind(name="large", weight=1, smallest=100_000, largest=BODY_MAX),
    Kind(name="websocket", weight=1, answered_by=101, smallest=10, largest=20_000),
    Kind(name="slowread", weight=0.2, smallest=BODY_MAX - 1, largest=BODY_MAX),
    Kind(name="slowwrite", weight=0.2, method="POST", answered_by=201, again=False, smallest=1000, largest=8000),
    Kind(name="deep", weight=0.2, method="POST", answered_by=201, again=False, smallest=BODY_MAX - 1, largest=BODY_MAX),
    Kind(name="torn", weight=0.4, method="POST", again=False, whole=False, smallest=20_000, largest=200_000),
    Kind(name="left", weight=0.4, smallest=300_000, largest=BODY_MAX),
    Kind(name="loris", weight=0.1, answered_by=408, whole=False),
)
NUMBER = {kind.name: number for number, kind in enumerate(KINDS)}
PIPELINED = 5
QUICK = frozenset({NUMBER["get"], NUMBER["post"]})
"""The kinds whose latency is told: small, on a kept connection, never slow on purpose."""

TEARING = ("torn", "left", "loris")
"""The kinds of callers that misbehave: more of them come while connections are torn."""

FRAMED_IN_TURN = frozenset({"http10", "large", "left"})
"""The kinds whose answers are framed by length, in chunks, or by the end of the connection, by their number in turn."""

SSE_EVENTS = 8
MESSAGES = 5


def place_of(number: int) -> int:
    """Where in the pattern the bytes of exchange `number` begin."""
    return number * 7919 % _PLACES


def body_of(number: int, size: int) -> bytes:
    """The bytes that belong to exchange `number`."""
    at = place_of(number)
    return PATTERN[at : at + size]


def framing_of(kind: Kind, number: int) -> str:
    """How the upstream frames a large answer: `length`, `chunked` or `close`."""
    return ("length", "chunked", "close")[number % 3] if kind.name in FRAMED_IN_TURN else "length"


def receipt_of(number: int, size: int) -> bytes:
    """What the upstream answers to an upload: its number and the checksum of what came."""
    return b"%d %d\n" % (number, zlib.crc32(body_of(number, size)))


def events_of(number: int) -> list[bytes]:
    """The server-sent events of exchange `number`."""
    return [b"id: %d\ndata: %d %b\n\n" % (event, number, body_of(number + event, 200).hex().encode()) for event in range(SSE_EVENTS)]


def target_of(kind: Kind, number: int, size: int) -> str:
    """The request target of one exchange; the query must come through and must not be recorded."""
    return f"/{kind.name}/{number}/{size}?unrecorded={number}"


class Mixer:
    """Draws kinds and sizes, from a seed."""

    def __init__(self, seed: str) -> None:
        self._dice = random.Random(seed)
        self.tear(1.0)

    def tear(self, factor: float) -> None:
        """From now on callers that misbehave come `factor` times as often."""
        self._weights = [
            kind.weight * (factor if kind.name in TEARING else 1.0) / (PIPELINED if kind.name == "pipeline" else 1) for kind in KINDS
        ]

    def draw(self) -> tuple[Kind, int]:
        """A kind, and the size of its body."""
        kind = self._dice.choices(KINDS, self._weights)[0]
        return kind, self.size(kind)

    def size(self, kind: Kind) -> int:
        """A size for one more of this kind."""
        return self._dice.randint(kind.smallest, kind.largest)

    def cut(self, size: int) -> int:
        """A place to cut `size` bytes in two."""
        return self._dice.randint(1, max(1, size - 1))

    def chance(self, share: float) -> bool:
        """True in `share` of the cases."""
        return self._dice.random() < share

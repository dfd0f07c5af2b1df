"""Seeded mutation: from a seed, a dictionary and a random stream that depends on nothing else, the same hostile bytes in every run."""

import random
from collections.abc import Iterator

LIMIT_BYTES = 8192


def mutations(seeds: tuple[bytes, ...], words: tuple[bytes, ...], *, seed: str, count: int) -> Iterator[bytes]:
    """`count` mutated inputs: each a seed changed at one to six places."""
    draw = random.Random(seed)
    for _ in range(count):
        data = bytearray(draw.choice(seeds))
        for _ in range(draw.randint(1, 6)):
            _change(data, draw, words, seeds)
        yield bytes(data[:LIMIT_BYTES])


def _change(data: bytearray, draw: random.Random, words: tuple[bytes, ...], seeds: tuple[bytes, ...]) -> None:
    at = draw.randint(0, len(data))
    end = min(len(data), at + draw.choice((1, 1, 2, 4, 16, 64)))
    match draw.randrange(8):
        case 0:
            data[at:at] = draw.choice(words)
        case 1:
            data[at:end] = draw.choice(words)
        case 2:
            del data[at:end]
        case 3:
            data[at:at] = data[at:end] * draw.choice((1, 2, 30))
        case 4:
            data[at:end] = bytes(draw.randrange(256) for _ in range(end - at))
        case 5:
            if at < len(data):
                data[at] ^= 1 << draw.randrange(8)
        case 6:
            other = draw.choice(seeds)
            data[at:] = other[draw.randint(0, len(other)) :]
        case _:
            data[at:at] = bytes([draw.randrange(256)]) * draw.choice((1, 3, 200))

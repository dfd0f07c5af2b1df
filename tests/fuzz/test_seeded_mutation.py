"""Each fuzz target's invariant under seeded mutation (Q2): no escape, no input that costs a second, no memory that grows with the input."""

import time
import tracemalloc

import pytest
from tests.fuzz.mutate import mutations
from tests.fuzz.targets import TARGETS

ROUNDS = {
    "requests": 20_000,
    "responses": 15_000,
    "chunks": 8000,
    "settings": 4000,
    "jwt": 4000,
    "workload_api": 4000,
    "frames": 20_000,
    "passports": 4000,
    "kube": 6000,
    "token_answers": 600,
    "gateway": 1500,
    "dns": 700,
}
MEMORY_BYTES = 8 << 20  # for inputs of at most 8 KiB: far above any fair need, far below any growth


@pytest.mark.parametrize("name", TARGETS)
def test_every_seed_keeps_the_invariant(name: str) -> None:
    target = TARGETS[name]
    for data in (*target.SEEDS, b"", b"\x00", b"\r\n\r\n"):
        target.check(data)


@pytest.mark.parametrize("name", TARGETS)
def test_mutated_seeds_keep_the_invariant_and_cost_little(name: str) -> None:
    target, slowest, worst = TARGETS[name], 0.0, b""
    for data in mutations(target.SEEDS, target.WORDS, seed=f"robin-{name}", count=ROUNDS[name]):
        began = time.thread_time()
        try:
            target.check(data)
        except Exception as error:
            error.add_note(f"the input: {data!r}")
            raise
        took_s = time.thread_time() - began
        if took_s > slowest:
            slowest, worst = took_s, data
    assert slowest < 1.0, f"{slowest:.2f} s for {worst[:200]!r}"


@pytest.mark.parametrize("name", TARGETS)
def test_mutated_seeds_hold_little_memory(name: str) -> None:
    target = TARGETS[name]
    tracemalloc.start()
    try:
        for data in mutations(target.SEEDS, target.WORDS, seed=f"memory-{name}", count=150):
            tracemalloc.reset_peak()
            before, _ = tracemalloc.get_traced_memory()
            target.check(data)
            _, peak = tracemalloc.get_traced_memory()
            assert peak - before < MEMORY_BYTES, f"{peak - before} bytes for {len(data)}: {data[:200]!r}"
    finally:
        tracemalloc.stop()

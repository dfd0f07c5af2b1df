"""The process's own figures agree with what the kernel says elsewhere, and are absent where it says nothing."""

import os
import resource
import time
from pathlib import Path

from robin.telemetry.process import ProcessCounters


def read(counters: ProcessCounters) -> dict[str, float]:
    return {name.name: value for name, _, value in counters.readings() if isinstance(value, int | float)}


def status_kib(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1])
    raise AssertionError(field)


def test_memory_and_limits_are_the_kernels():
    told = read(ProcessCounters())
    assert abs(told["process_virtual_memory_bytes"] - status_kib("VmSize") * 1024) < 16 * 2**20
    assert abs(told["process_resident_memory_bytes"] - status_kib("VmRSS") * 1024) < 16 * 2**20
    assert told["process_max_fds"] == resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def test_descriptors_are_those_that_are_open():
    counters = ProcessCounters()
    before = read(counters)["process_open_fds"]
    ends = [*os.pipe(), *os.pipe()]
    assert read(counters)["process_open_fds"] == before + 4
    for end in ends:
        os.close(end)
    assert read(counters)["process_open_fds"] == before


def test_the_start_lies_between_boot_and_now_and_does_not_move():
    first, second = (read(ProcessCounters())["process_start_time_seconds"] for _ in range(2))
    assert first == second
    assert time.time() - 86_400 < first <= time.time() + 2


def test_processor_time_grows_with_work():
    counters = ProcessCounters()
    before = read(counters)["process_cpu_seconds_total"]
    while read(counters)["process_cpu_seconds_total"] == before:
        sum(range(10_000))
    assert read(counters)["process_cpu_seconds_total"] > before


def test_without_proc_the_rest_is_still_told(tmp_path):
    assert set(read(ProcessCounters(tmp_path))) == {"process_cpu_seconds_total", "process_max_fds"}


def test_a_command_with_brackets_and_spaces_does_not_shift_the_fields(tmp_path):
    (tmp_path / "self" / "fd").mkdir(parents=True)
    (tmp_path / "self" / "stat").write_bytes(b"7 (a) b (c d) " + b" ".join(b"%d" % number for number in range(50)))
    (tmp_path / "stat").write_bytes(b"cpu 1 2\nbtime 1000\n")
    told = read(ProcessCounters(tmp_path))
    assert told["process_virtual_memory_bytes"] == 20
    assert told["process_resident_memory_bytes"] == 21 * resource.getpagesize()
    assert told["process_start_time_seconds"] == 1000 + 19 / os.sysconf("SC_CLK_TCK")

"""The shipped unit as values, and its own confinement put on a process without systemd: system calls, address families, no W+X memory.

The filter is made as systemd makes it (seccomp, from the sets that `systemd-analyze syscall-filter` names), so that what the unit
forbids is known not to be needed. What needs systemd itself (DynamicUser, mounts) is shown in tests/journeys/test_confinement.py
in another way, and under a real one in tests/real/test_systemd_boot.py.
"""

import errno
import functools
import re
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import pytest

SYSTEMD = Path(__file__).parents[2] / "deploy" / "systemd"
NUMBERS = Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h")
FAMILIES = {"AF_UNIX": 1, "AF_INET": 2, "AF_INET6": 10}

# struct sock_filter: code, jump if true, jump if false, operand (linux/filter.h, linux/seccomp.h)
LOAD, EQUALS, RETURN = 0x20, 0x15, 0x06
NUMBER_AT, ARCHITECTURE_AT, FIRST_ARGUMENT_AT = 0, 4, 16
X86_64, ALLOW, FAIL, KILL = 0xC000003E, 0x7FFF0000, 0x00050000, 0x80000000


def read_unit(name: str) -> dict[str, dict[str, list[str]]]:
    """Section -> key -> its values, in order; a key may come more than once."""
    sections: dict[str, dict[str, list[str]]] = {}
    for line in (SYSTEMD / name).read_text().splitlines():
        if found := re.fullmatch(r"\[(\w+)\]", line):
            section = sections.setdefault(found[1], {})
        elif line and not line.startswith("#"):
            key, _, value = line.partition("=")
            section.setdefault(key, []).append(value)
    return sections


@functools.cache
def call_sets() -> dict[str, frozenset[str]]:
    """Set -> names of calls, as the installed systemd knows them."""
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("NOT TESTED: this needs systemd-analyze")
    found: dict[str, set[str]] = {}
    for line in subprocess.run([analyze, "syscall-filter", "--no-pager"], capture_output=True, text=True, check=True).stdout.splitlines():
        word = line.strip()
        if line.startswith("@"):
            current = found.setdefault(word, set())
        elif line.startswith(" ") and not word.startswith("#"):
            current.add(word)
    return {name: frozenset(_flatten(found, name)) for name in found}


def _flatten(found: dict[str, set[str]], name: str) -> set[str]:
    return {call for one in found[name] for call in (_flatten(found, one) if one.startswith("@") else {one})}


def allowed_calls() -> frozenset[str]:
    """What SystemCallFilter= of the unit lets through."""
    sets, allowed = call_sets(), set(call_sets()["@default"])
    for value in read_unit("robin.service")["Service"]["SystemCallFilter"]:
        names = {call for word in value.lstrip("~").split() for call in (sets[word] if word.startswith("@") else {word})}
        allowed = allowed - names if value.startswith("~") else allowed | names
    return frozenset(allowed)


def seccomp_program() -> bytes:
    """The unit's filter as instructions: another architecture ends the process, a call that is not allowed fails with EPERM."""
    if not NUMBERS.exists() or sys.platform != "linux":
        pytest.skip(f"NOT TESTED: this needs {NUMBERS} (linux-libc-dev)")
    numbers = {name: int(number) for name, number in re.findall(r"#define __NR_(\w+) (\d+)", NUMBERS.read_text())}
    steps = [(LOAD, 0, 0, ARCHITECTURE_AT), (EQUALS, 1, 0, X86_64), (RETURN, 0, 0, KILL), (LOAD, 0, 0, NUMBER_AT)]
    (families,) = read_unit("robin.service")["Service"]["RestrictAddressFamilies"]
    kinds = [FAMILIES[word] for word in families.split()]
    steps += [(EQUALS, 0, 2 * len(kinds) + 2, numbers["socket"]), (LOAD, 0, 0, FIRST_ARGUMENT_AT)]
    for kind in kinds:
        steps += [(EQUALS, 0, 1, kind), (RETURN, 0, 0, ALLOW)]
    steps.append((RETURN, 0, 0, FAIL | errno.EAFNOSUPPORT))
    for name in sorted(allowed_calls() & numbers.keys()):
        steps += [(EQUALS, 0, 1, numbers[name]), (RETURN, 0, 0, ALLOW)]
    steps.append((RETURN, 0, 0, FAIL | errno.EPERM))
    return b"".join(struct.pack("HBBI", *step) for step in steps)


def confined(program: bytes, *then: str) -> tuple[str, ...]:
    """Becomes `then` under this filter, unable to gain privileges or to make memory that is both writable and executable."""
    code = (
        "import ctypes, os, sys\n"
        "libc = ctypes.CDLL(None, use_errno=True)\n"
        f"program = bytes.fromhex({program.hex()!r})\n"
        "held = ctypes.create_string_buffer(program, len(program))\n"
        "class Filter(ctypes.Structure):\n"
        "    _fields_ = [('count', ctypes.c_ushort), ('steps', ctypes.c_void_p)]\n"
        "given = Filter(len(program) // 8, ctypes.cast(held, ctypes.c_void_p))\n"
        "def prctl(*words):\n"
        "    if libc.prctl(*words) != 0:\n"
        "        sys.exit(f'prctl{words}: {os.strerror(ctypes.get_errno())}')\n"
        "prctl(38, 1, 0, 0, 0)\n"  # PR_SET_NO_NEW_PRIVS
        "libc.prctl(65, 1, 0, 0, 0)\n"  # PR_SET_MDWE: kernels before 6.3 have none
        "prctl(22, 2, ctypes.byref(given), 0, 0)\n"  # PR_SET_SECCOMP, SECCOMP_MODE_FILTER
        "os.execv(sys.argv[1], sys.argv[1:])\n"
    )
    return (sys.executable, "-c", code, *then)

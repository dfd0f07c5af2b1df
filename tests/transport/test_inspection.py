"""A process that refuses inspection, as another process of the same user sees it (G56)."""

import subprocess
import sys

ASK = """
import ctypes, errno, os, resource
from robin.transport.inspection import refuse_inspection
if os.getuid() == 0:
    os.setresuid(65534, 65534, 65534)  # from root nothing can be kept
ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)  # PR_SET_DUMPABLE: a change of user has taken it away

def look():
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    refused = 0
    for at, name in enumerate(("environ", "mem", "fd/0", "maps")):
        try:
            os.open(f"/proc/{os.getppid()}/{name}", os.O_RDONLY)
        except PermissionError:
            refused |= 1 << at
    os._exit(refused)

before = look()
refuse_inspection()
print(before, look(), resource.getrlimit(resource.RLIMIT_CORE))
"""


def test_g56_another_process_of_its_user_can_read_neither_environment_nor_memory_nor_descriptors() -> None:
    done = subprocess.run([sys.executable, "-c", ASK], capture_output=True, text=True, check=True, timeout=60, stdin=subprocess.DEVNULL)
    assert done.stdout == "0 15 (0, 0)\n"

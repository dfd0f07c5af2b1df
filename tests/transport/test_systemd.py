"""The two protocols of systemd, piece by piece; the whole is in tests/journeys/test_systemd_protocol.py."""

import os
import socket
import sys
from collections.abc import Iterator, Mapping

import pytest
from tests.journeys.life import short_folder

from robin.testing.process import RobinProcess
from robin.transport.systemd import Notifier, activated_sockets


@pytest.fixture
def heard() -> Iterator[socket.socket]:
    with short_folder() as folder, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sock:
        sock.bind(f"{folder}/notify")
        yield sock


def environ(heard: socket.socket, **more: str) -> Mapping[str, str]:
    return {"NOTIFY_SOCKET": heard.getsockname(), **more}


def test_a_notice_is_one_datagram_of_lines(heard: socket.socket):
    notifier = Notifier(environ(heard), os.getpid())
    notifier.notify("READY=1", "STATUS=serving")
    notifier.notify("STOPPING=1")
    assert [heard.recv(4096), heard.recv(4096)] == [b"READY=1\nSTATUS=serving", b"STOPPING=1"]
    notifier.close()


@pytest.mark.parametrize("address", ["", "relative", "vsock:2:1234", "/nowhere/at/all"])
def test_no_or_another_manager_is_silence(address: str):
    notifier = Notifier({"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "1000000"}, 1)
    notifier.notify("READY=1")
    notifier.close()


def test_a_manager_that_does_not_read_blocks_nothing(heard: socket.socket):
    notifier = Notifier(environ(heard), os.getpid())
    for _ in range(10_000):
        notifier.notify("WATCHDOG=1")
    notifier.close()


@pytest.mark.parametrize(
    ("more", "half_s"),
    [
        ({"WATCHDOG_USEC": "30000000"}, 15.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "42"}, 15.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "43"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({}, None),
    ],
)
def test_the_watchdog_is_fed_at_half_its_time_if_it_is_ours(heard: socket.socket, more: dict[str, str], half_s: float | None):
    notifier = Notifier(environ(heard, **more), 42)
    assert notifier.watchdog_s == half_s
    notifier.close()


@pytest.mark.parametrize("given", [{}, {"LISTEN_FDS": "1"}, {"LISTEN_PID": "1", "LISTEN_FDS": "1"}, {"LISTEN_PID": "x", "LISTEN_FDS": "1"}])
def test_sockets_that_were_passed_to_nobody_or_another_are_not_taken(given: dict[str, str]):
    assert activated_sockets(given, 42) == {}


@pytest.mark.parametrize("count", ["", "-1", "one", "65", "9999999999999999999999"])
def test_a_count_that_is_no_small_number_is_refused(count: str):
    with pytest.raises(ValueError, match="LISTEN_FDS is not a small number"):
        activated_sockets({"LISTEN_PID": "42", "LISTEN_FDS": count}, 42)


# Descriptor 3 is this test's own business in the process of the tests, so a process of its own looks at what it is passed.
LOOK = """
import os, socket, sys, warnings
warnings.simplefilter("ignore")
kinds = {
    "listening": lambda: (lambda s: (s.bind(("127.0.0.1", 0)), s.listen(), s)[2])(socket.socket()),
    "bound": lambda: (lambda s: (s.bind(("127.0.0.1", 0)), s)[1])(socket.socket()),
    "datagram": lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM),
    "file": lambda: open("/dev/null"),
    "closed": lambda: None,
}
made = [kinds[kind]() for kind in sys.argv[2].split(",")]
high = [None if one is None else os.dup(one.fileno()) for one in made]
for at, fd in enumerate(high):
    if fd is None:
        os.closerange(3 + at, 4 + at)
    elif fd != 3 + at:
        os.dup2(fd, 3 + at)
from robin.transport.systemd import activated_sockets
environ = {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": str(len(made))}
if sys.argv[1] != "-":
    environ["LISTEN_FDNAMES"] = sys.argv[1]
try:
    found = activated_sockets(environ, os.getpid())
    print({name: [(sock.fileno(), os.get_inheritable(sock.fileno())) for sock in socks] for name, socks in found.items()})
except ValueError as error:
    print(error)
sys.stdout.flush()
os._exit(0)
"""


@pytest.mark.parametrize(
    ("names", "kinds", "said"),
    [
        ("web", "listening", "{'web': [(3, False)]}"),
        ("web:admin", "listening,listening", "{'web': [(3, False)], 'admin': [(4, False)]}"),
        ("web:web", "listening,listening", "{'web': [(3, False), (4, False)]}"),
        ("-", "listening", "{'unknown': [(3, False)]}"),
        ("web", "listening,listening", "LISTEN_FDNAMES does not name each socket of LISTEN_FDS"),
        ("web", "bound", "the passed socket web is not a listening stream socket"),
        ("web", "datagram", "the passed socket web is not a listening stream socket"),
        ("web", "file", "the passed socket web is not a listening stream socket"),
        ("web", "closed", "the passed socket web is not a listening stream socket"),
    ],
)
async def test_what_is_passed_is_taken_by_name_or_refused(names: str, kinds: str, said: str):
    async with RobinProcess(names, kinds, program=(sys.executable, "-c", LOOK)) as process:
        assert await process.returned() == 0
        assert process.stdout == [said]

"""Listening sockets as the process binds them; paths, modes and exit codes are tested on the process itself (tests/journeys)."""

import asyncio
import contextlib
import errno
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.descriptors import no_descriptor_left
from tests.journeys.life import short_folder

from robin.model.address import ActivatedAddress, Address, TcpAddress, UnixAddress
from robin.proxy.admission import peer_credentials
from robin.testing.waiting import eventually
from robin.transport.listen import Acceptor, BindError, BoundSocket, OwnAddresses, bind

Binder = Callable[..., list[BoundSocket]]


@pytest.fixture
def binder() -> Iterator[Binder]:
    """`bind` without a warning, undone at the end."""
    made: list[BoundSocket] = []

    def call(address: Address, activated: dict[str, list[socket.socket]] | None = None) -> list[BoundSocket]:
        bound = bind(address, activated or {}, lambda event, text: pytest.fail(f"{event}: {text}"))
        made.extend(bound)
        return bound

    yield call
    for one in made:
        one.close()


@pytest.fixture
def folder() -> Iterator[Path]:
    with short_folder() as made:
        yield made


def can_connect(family: int, host: str, port: int) -> bool:
    with socket.socket(family) as peer:
        return peer.connect_ex((host, port)) == 0


def test_tcp_is_bound_where_it_says_and_its_label_has_the_real_port(binder: Binder):
    for host, family in (("127.0.0.1", socket.AF_INET), ("::1", socket.AF_INET6)):
        (bound,) = binder(TcpAddress(host=host, port=0))
        port = bound.sock.getsockname()[1]
        assert bound.label == (f"[{host}]:{port}" if ":" in host else f"{host}:{port}")
        assert can_connect(family, host, port)
        assert not bound.unix


def test_an_empty_host_is_every_interface_of_both_families(binder: Binder):
    (bound,) = binder(TcpAddress(host="", port=0))
    port = bound.sock.getsockname()[1]
    assert bound.label == f":{port}"
    assert can_connect(socket.AF_INET, "127.0.0.1", port)
    assert can_connect(socket.AF_INET6, "::1", port)


def test_an_ipv6_wildcard_is_no_ipv4_listener(binder: Binder):
    (bound,) = binder(TcpAddress(host="::", port=0))
    assert bound.sock.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)  # a connection would prove nothing: others may have its port


def test_best_effort_skips_a_missing_address_but_not_a_taken_one(binder: Binder):
    assert binder(TcpAddress(host="2001:db8::1", port=0, best_effort=True)) == []
    with pytest.raises(BindError):
        binder(TcpAddress(host="2001:db8::1", port=0))
    (taken,) = binder(TcpAddress(host="127.0.0.1", port=0))
    with pytest.raises(BindError, match=r"^127\.0\.0\.1:\d+: the address is in use; stop the other process or choose another port$"):
        binder(TcpAddress(host="127.0.0.1", port=taken.sock.getsockname()[1], best_effort=True))


def test_descriptors_are_not_inherited_and_never_block(binder: Binder, folder: Path):
    for address in (TcpAddress(host="127.0.0.1", port=0), UnixAddress(path=f"{folder}/s")):
        (bound,) = binder(address)
        assert not os.get_inheritable(bound.sock.fileno())
        assert not os.get_blocking(bound.sock.fileno())


def test_a_unix_socket_is_mode_0600_unless_told(binder: Binder, folder: Path):
    for name, mode, expected in (("a", None, 0o600), ("b", 0o666, 0o666)):
        binder(UnixAddress(path=f"{folder}/{name}", mode=mode))
        assert os.lstat(folder / name).st_mode & 0o777 == expected


RACER = """
import sys
from robin.model.address import UnixAddress
from robin.transport.listen import BindError, bind
print("ready", flush=True)
for _ in sys.stdin:
    try:
        (bound,) = bind(UnixAddress(path=sys.argv[1]), {}, print)
    except BindError as error:
        print(error, flush=True)
    else:
        print("bound", flush=True)
        sys.stdin.readline()
        bound.sock.close()  # and leaves its path behind, as a crash does
        print("dead", flush=True)
"""


def test_of_two_processes_that_find_the_same_dead_socket_one_binds_and_the_other_is_told(folder: Path):
    path = folder / "s"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    with contextlib.ExitStack() as stack:
        command = [sys.executable, "-c", RACER, str(path)]
        both = [stack.enter_context(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)) for _ in range(2)]
        stack.callback(lambda: [racer.stdin.close() for racer in both])
        for racer in both:
            assert racer.stdout.readline() == "ready\n"
        for turn in range(300):
            for racer in both:
                racer.stdin.write("go\n")
            for racer in both:
                racer.stdin.flush()
            said = [racer.stdout.readline().strip() for racer in both]
            assert said.count("bound") == 1, (turn, said)
            (refused,) = [words for words in said if words != "bound"]
            assert refused in {
                f"unix:{path}: another process is binding it at this moment; stop it or choose another path",
                f"unix:{path}: another process is listening there; stop it or choose another path",
            }
            with socket.socket(socket.AF_UNIX) as peer:
                peer.connect(str(path))  # the one that bound it is the one that is reached: the other holds nothing
            winner = both[said.index("bound")]
            winner.stdin.write("end\n")
            winner.stdin.flush()
            assert winner.stdout.readline() == "dead\n"
        assert [entry.name for entry in folder.iterdir()] == ["s"]


def test_want_of_descriptors_is_no_want_of_an_address_family(binder: Binder, folder: Path):
    with no_descriptor_left():
        for address in (TcpAddress(host="127.0.0.1", port=0), TcpAddress(host="", port=0), UnixAddress(path=f"{folder}/s")):
            with pytest.raises(BindError, match="Too many open files"):
                binder(address)


def test_the_umask_is_as_before(binder: Binder, folder: Path):
    before = os.umask(0o027)
    try:
        binder(UnixAddress(path=f"{folder}/made/s"))
        assert os.umask(0o027) == 0o027
    finally:
        os.umask(before)


def test_closing_unlinks_our_socket_and_nobody_elses(folder: Path):
    path = folder / "s"
    (ours,) = bind(UnixAddress(path=str(path)), {}, print)
    path.unlink()
    (theirs,) = bind(UnixAddress(path=str(path)), {}, print)
    ours.close()
    assert path.exists()
    theirs.close()
    assert not path.exists()


def test_closing_in_a_folder_that_went_away_is_no_failure(folder: Path):
    (folder / "sub").mkdir()
    (bound,) = bind(UnixAddress(path=f"{folder}/sub/s"), {}, print)
    os.unlink(folder / "sub" / "s")
    (folder / "sub").rmdir()
    bound.close()


def test_activated_sockets_are_taken_by_name_and_stay_linked(folder: Path):
    with socket.socket(socket.AF_UNIX) as passed:
        passed.bind(f"{folder}/s")
        passed.listen()
        (bound,) = bind(ActivatedAddress(name="web"), {"web": [passed], "other": []}, print)
        assert (bound.label, bound.unix) == ("systemd:web", True)
        bound.close()
    assert (folder / "s").exists()


def test_peer_credentials_are_the_kernels_word(folder: Path):
    ours, theirs = socket.socketpair(socket.AF_UNIX)
    with ours, theirs:
        assert peer_credentials(ours) == (os.getpid(), os.getuid(), os.getgid())


class Stand:
    """An acceptor on a fresh listener, and what it said."""

    def __init__(self) -> None:
        self.taken: list[socket.socket] = []
        self.told: list[tuple[str, str]] = []
        self.died: list[tuple[str, OSError]] = []
        (self.bound,) = bind(TcpAddress(host="127.0.0.1", port=0), {}, print)
        self.acceptor = Acceptor(
            asyncio.get_running_loop(),
            self.bound,
            lambda sock, _: self.taken.append(sock),
            lambda code, text: self.told.append((code, text)),
            lambda label, error: self.died.append((label, error)),
        )

    def connect(self) -> socket.socket:
        return socket.create_connection(self.bound.sock.getsockname())


@contextlib.contextmanager
def accepting() -> Iterator[Stand]:
    stand = Stand()
    try:
        stand.acceptor.start()
        yield stand
    finally:
        stand.acceptor.stop()
        stand.bound.close()
        for sock in stand.taken:
            sock.close()


async def test_each_connection_is_handed_on_unread_until_it_stops():
    with accepting() as stand, contextlib.ExitStack() as peers:
        for _ in range(100):
            peers.enter_context(stand.connect())
        await eventually(lambda: len(stand.taken) == 100, what="all to be accepted")
        stand.acceptor.stop()
        peers.enter_context(stand.connect())
        for _ in range(10):  # it is in the kernel's queue: each turn of the loop would see it
            await asyncio.sleep(0)
        assert len(stand.taken) == 100, "the queue of the kernel keeps who comes now"
        stand.acceptor.start()
        await eventually(lambda: len(stand.taken) == 101, what="the one that waited")
        assert stand.told == stand.died == []


class FailingSocket:
    """A listening socket whose accept fails with these errors, then works."""

    def __init__(self, sock: socket.socket, *errors: int) -> None:
        self._sock = sock
        self._errors = list(errors)
        self.calls = 0

    def fileno(self) -> int:
        return self._sock.fileno()

    def accept(self) -> tuple[socket.socket, object]:
        self.calls += 1
        if self._errors:
            number = self._errors.pop(0)
            raise OSError(number, os.strerror(number))
        return self._sock.accept()

    def close(self) -> None:
        self._sock.close()


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM])
async def test_exhaustion_is_told_and_rested_for_a_second(number: int):
    with accepting() as stand, stand.connect():
        stand.acceptor.stop()
        failing = FailingSocket(stand.bound.sock, number)
        stand.bound.sock = failing  # type: ignore[assignment]
        began = asyncio.get_running_loop().time()
        stand.acceptor.start()
        await eventually(lambda: stand.taken, what="the connection to be accepted in the end")
        assert asyncio.get_running_loop().time() - began >= 0.99
        assert [code for code, _ in stand.told] == ["accept_exhausted"]
        assert failing.calls <= 3


@pytest.mark.parametrize("number", [errno.ECONNABORTED, errno.EINTR, errno.EPROTO, errno.EPERM])
async def test_a_connection_that_was_gone_is_passed_over(number: int):
    with accepting() as stand, stand.connect():
        stand.acceptor.stop()
        stand.bound.sock = FailingSocket(stand.bound.sock, number)  # type: ignore[assignment]
        stand.acceptor.start()
        await eventually(lambda: stand.taken, what="the next accept")
        assert stand.told == stand.died == []


@pytest.mark.parametrize("number", [errno.EBADF, errno.EINVAL, errno.ENOTSOCK])
async def test_any_other_failure_is_fatal_and_told_once(number: int):
    with accepting() as stand, stand.connect():
        stand.acceptor.stop()
        failing = FailingSocket(stand.bound.sock, *[number] * 10)
        stand.bound.sock = failing  # type: ignore[assignment]
        stand.acceptor.start()
        await eventually(lambda: stand.died, what="the failure to be told")
        for _ in range(10):  # the connection still waits in the kernel's queue: each turn of the loop would see it
            await asyncio.sleep(0)
        assert [(label, error.errno) for label, error in stand.died] == [(stand.bound.label, number)]
        assert failing.calls == 1


@pytest.mark.parametrize(
    ("listen", "host", "same_port", "ours"),
    [
        ("127.0.0.1", "127.0.0.1", True, True),
        ("127.0.0.1", "::ffff:127.0.0.1", True, True),
        ("127.0.0.1", "0.0.0.0", True, True),
        ("127.0.0.1", "127.0.0.1", False, False),
        ("127.0.0.1", "127.0.0.2", True, False),
        ("127.0.0.1", "::1", True, False),
        ("::1", "::1", True, True),
        ("::1", "0:0::1", True, True),
        ("::1", "::", True, True),
        ("", "127.0.0.1", True, True),
        ("", "127.9.9.9", True, True),
        ("", "::1", True, True),
        ("", "203.0.113.1", True, False),
        ("0.0.0.0", "127.9.9.9", True, True),
    ],
)
def test_own_addresses(binder: Binder, listen: str, host: str, same_port: bool, ours: bool):
    (bound,) = binder(TcpAddress(host=listen, port=0))
    own = OwnAddresses()
    own.learn([bound])
    port = bound.sock.getsockname()[1]
    assert own.has(host, port if same_port else port ^ 1) is ours


def test_a_passed_socket_on_every_ipv4_address_within_ipv6_is_ours_on_each(binder: Binder):
    with socket.socket(socket.AF_INET6) as passed:
        passed.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        passed.bind(("::ffff:0.0.0.0", 0))
        passed.listen()
        own = OwnAddresses()
        own.learn(binder(ActivatedAddress(name="web"), {"web": [passed]}))
        assert own.has("127.9.9.9", passed.getsockname()[1])


def test_a_unix_listener_is_no_address_to_dial(binder: Binder, folder: Path):
    own = OwnAddresses()
    own.learn(binder(UnixAddress(path=f"{folder}/s")))
    assert not own.has("127.0.0.1", 0)

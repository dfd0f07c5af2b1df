"""The caller's side: one whole head within its limits, the same however it is cut, and a good ending."""

import asyncio
import math

import pytest
from tests.proxy.rig import CALLER, Room

from robin.model.faults import Fault
from robin.model.secret import Secret
from robin.proxy.downstream import Downstream
from robin.testing.certificates import CertificateAuthority
from robin.testing.waiting import eventually
from robin.transport.stream import Stream, StreamClosed
from robin.transport.tls_server import server_context
from robin.transport.tls_stream import start_tls

HEAD = b"GET /x HTTP/1.1\r\nHost: localhost\r\nA: 1\r\n\r\n"


def feed(downstream: Downstream, octets: bytes) -> None:
    """What the loop does when bytes arrive."""
    downstream.data_received(octets)


@pytest.mark.parametrize("cut", [1, 10, len(HEAD) - 3, len(HEAD) - 1])
async def test_a_head_is_the_same_however_it_is_cut(room: Room, cut: int) -> None:
    downstream, _ = await room.meet()
    feed(downstream, HEAD[:cut])
    assert downstream.take_head() is None
    waiting = room.engine.tasks.start(downstream.receive_head(), "head")
    await eventually(lambda: downstream._reader is not None, what="a wait for the rest", every_s=0)
    assert downstream.deadline_at < math.inf
    feed(downstream, HEAD[cut:] + b"next")
    assert (await waiting).target == HEAD.split(b" ")[1]
    assert downstream.received == b"next"
    assert downstream.deadline_at == math.inf


async def test_a_whole_head_is_taken_without_a_wait_and_what_follows_stays(room: Room) -> None:
    downstream, _ = await room.meet()
    feed(downstream, HEAD + HEAD)
    head = downstream.take_head()
    assert head is not None
    assert head.target == HEAD.split(b" ")[1]
    assert downstream.received == HEAD


@pytest.mark.parametrize(
    ("before", "served"), [(b"\r\n" * 4, True), (b"\r\n" * 5, False), (b"\n", False), (b"\r", False), (b"\r\n\n", False)]
)
async def test_four_empty_lines_may_come_first_and_nothing_else(room: Room, before: bytes, served: bool) -> None:
    downstream, _ = await room.meet()
    feed(downstream, before + HEAD)
    assert downstream.take_head() is None
    if served:
        assert (await downstream.receive_head()).target == HEAD.split(b" ")[1]
    else:
        with pytest.raises(Fault, match="leading_crlf"):
            await downstream.receive_head()


@pytest.mark.parametrize(
    ("octets", "code"),
    [
        (b"GET / HTTP/1.1\r\nA: " + b"a" * 65536, "head_too_large"),
        (b"GET / HTTP/1.1\r\nA: " + b"a" * 65536 + b"\r\n\r\n", "head_too_large"),
        (b"GET /" + b"a" * 16384 + b" HTTP/1.1\r\n" + b"A: 1\r\n" * 9000 + b"\r\n", "target_too_long"),
        (b"GET /" + b"a" * 20000, "target_too_long"),
        (b"G" * 20000, "head_too_large"),
        (b"GET / HTTP/1.1\r\nA: \x00", "bad_request"),
        (b"GET / HTTP/1.1\nA", "bad_request"),
    ],
)
async def test_a_head_beyond_its_limits_is_refused_without_waiting_for_its_end(room: Room, octets: bytes, code: str) -> None:
    downstream, _ = await room.meet()
    feed(downstream, octets)
    with pytest.raises(Fault) as refused:
        await downstream.receive_head()
    assert refused.value.code == code


async def test_a_head_that_does_not_end_in_time_is_408_and_one_whose_caller_left_is_none(room: Room) -> None:
    late, _ = await room.meet()
    feed(late, HEAD[:5])
    waiting = room.engine.tasks.start(late.receive_head(), "head")
    await eventually(lambda: late._reader is not None, what="a wait for the rest", every_s=0)
    late.expire()
    with pytest.raises(Fault) as refused:
        await waiting
    assert refused.value.code == "request_timeout"
    left, caller = await room.meet()
    feed(left, HEAD[:5])
    caller.sock.close()
    with pytest.raises(StreamClosed):
        await left.receive_head()
    room.failures.clear()  # both were told as failures of their task: here the test asked for them


async def test_waiting_for_a_request_ends_quietly_when_the_caller_leaves_is_too_old_or_we_close(room: Room) -> None:
    left, caller = await room.meet()
    caller.sock.close()
    assert await left.await_request() is False
    old, quiet = await room.meet()
    waiting = room.engine.tasks.start(old.await_request(), "wait")
    await eventually(lambda: old.idle, what="idleness", every_s=0)
    assert old.deadline_at == pytest.approx(room.engine.now() + 75, abs=1)
    old.expire()
    assert await waiting is False
    assert old.idle is False
    old.begin_closing()
    assert await old.await_request() is False
    feed(old, HEAD)
    assert await old.await_request() is True  # it is answered: with `draining`
    quiet.sock.close()


async def test_a_body_is_forgotten_up_to_the_next_request_and_no_further(room: Room) -> None:
    downstream, caller = await room.meet()
    await caller.send(b"x" * 10 + HEAD)
    assert await downstream.discard_body(10) is True
    await eventually(lambda: len(downstream.received) == len(HEAD), what="the next head", every_s=0)
    assert downstream.take_head() is not None
    await caller.send(b"x" * 9)
    caller.sock.close()
    assert await downstream.discard_body(10) is False


async def test_to_linger_says_that_we_are_done_and_reads_until_the_caller_is(room: Room) -> None:
    downstream, caller = await room.meet()
    downstream.write(b"bye")
    lingering = room.engine.tasks.start(downstream.finish_and_discard(), "linger")
    assert await caller.receive() == b"bye"  # and our FIN
    await caller.send(b"x" * 100000)
    caller.sock.close()
    await lingering
    assert downstream.received == b""


async def test_a_caller_over_tls_is_served_and_left_as_any_other(room: Room, certificates: CertificateAuthority) -> None:
    loop = room.engine.loop
    below, caller = await room.meet()
    plain = Stream(loop, room.engine.sweeper)
    await loop.connect_accepted_socket(lambda: plain, caller.sock.dup())
    leaf = certificates.issue("robin.test")
    server = server_context(leaf.certificate_file.read_bytes(), Secret(leaf.key_file.read_bytes()))
    downstream, client = await asyncio.gather(
        start_tls(loop, below, lambda: Downstream(room.engine, CALLER), server),
        start_tls(loop, plain, lambda: Stream(loop, room.engine.sweeper), certificates.client_context(), server_hostname="robin.test"),
    )
    client.write(HEAD)
    assert (await downstream.receive_head()).target == b"/x"
    downstream.write(b"bye")
    lingering = room.engine.tasks.start(downstream.finish_and_discard(), "linger")
    while await client.fill():
        pass
    assert client.received == b"bye"
    client.write(b"x" * 100_000)
    client.close()
    await lingering
    assert downstream.received == b""
    assert not client.was_reset
    downstream.close()
    await eventually(lambda: downstream.closed and client.closed, what="both to be closed")


async def test_an_answer_that_is_not_taken_ends_the_connection_in_time(room: Room) -> None:
    downstream, caller = await room.meet()
    downstream.write(bytes(4 << 20))
    assert downstream.write_blocked
    waiting = room.engine.tasks.start(downstream.flush_response(), "wait")
    await eventually(lambda: downstream._writable is not None, what="a wait for the caller", every_s=0)
    downstream.expire()
    assert await waiting is False
    waiting = room.engine.tasks.start(downstream.flush_response(), "wait")
    await caller.receive(octets=4 << 20)
    assert await waiting is True
    assert downstream.deadline_at == math.inf

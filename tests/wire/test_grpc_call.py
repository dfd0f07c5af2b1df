"""The calling half of a gRPC connection against peers that behave and peers that do not: an answer, always, and no exception."""

from collections.abc import Callable

import h2.config
import h2.connection
import h2.events
import h2.settings
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from robin.model.secret import Secret
from robin.wire.grpc import CODES, render_message
from robin.wire.grpc_call import REPLY_LIMIT_BYTES, GrpcClientConnection
from robin.wire.jwt_inspection import fingerprint

OK_HEAD = [(":status", "200"), ("content-type", "application/grpc")]


class Peer:
    """A server's half of the connection, under the hand of the test."""

    def __init__(self, grpc: GrpcClientConnection) -> None:
        self.grpc = grpc
        self.h2 = h2.connection.H2Connection(
            h2.config.H2Configuration(client_side=False, header_encoding="utf-8", validate_outbound_headers=False)
        )
        self.h2.initiate_connection()
        self.headers: dict[str, str] = {}
        self.body = b""
        self.ended = self.reset = False

    def exchange(self) -> None:
        """Pass bytes both ways until nobody has any left."""
        while True:
            sent = self.grpc.outgoing()
            for event in self.h2.receive_data(sent):
                if isinstance(event, h2.events.RequestReceived):
                    self.headers = {str(name): str(value) for name, value in event.headers}
                elif isinstance(event, h2.events.DataReceived):
                    self.body += event.data
                    self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                elif isinstance(event, h2.events.StreamEnded):
                    self.ended = True
                elif isinstance(event, h2.events.StreamReset):
                    self.reset = True
            back = self.h2.data_to_send()
            if back:
                self.grpc.receive(back)
            if not sent and not back:
                return


def called(message: bytes = b"ask") -> Peer:
    grpc = GrpcClientConnection("localhost")
    grpc.begin("/service/Method", ((b"workload.spiffe.io", b"true"),), message, timeout_s=10)
    peer = Peer(grpc)
    peer.exchange()
    return peer


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


def answer(peer: Peer) -> tuple[str, str]:
    assert peer.grpc.response is not None, "the call has no answer"
    return peer.grpc.response.code, peer.grpc.response.text


def test_a_call_says_what_grpc_wants_to_hear() -> None:
    peer = called()
    assert peer.headers[":method"] == "POST"
    assert peer.headers[":path"] == "/service/Method"
    assert peer.headers[":authority"] == "localhost"
    assert peer.headers["te"] == "trailers"
    assert peer.h2.remote_settings.enable_push == 0
    assert peer.headers["content-type"] == "application/grpc"
    assert peer.headers["grpc-timeout"] == "10000m"
    assert peer.headers["workload.spiffe.io"] == "true"
    assert peer.body == render_message(b"ask")
    assert peer.ended


def test_an_answer_is_its_message() -> None:
    peer = called()
    peer.h2.send_headers(1, OK_HEAD)
    peer.h2.send_data(1, render_message(b"reply"))
    peer.h2.send_headers(1, [("grpc-status", "0")], end_stream=True)
    peer.exchange()
    assert answer(peer) == ("OK", "")
    assert peer.grpc.response is not None
    assert fingerprint(peer.grpc.response.body) == fingerprint(Secret(b"reply"))
    assert peer.grpc.usable


def test_a_line_serves_calls_one_after_the_other_and_is_spent_at_its_limit() -> None:
    peer = called()
    for number in range(1000):
        peer.h2.send_headers(1 + 2 * number, [*OK_HEAD, ("grpc-status", "14")], end_stream=True)
        peer.exchange()
        assert answer(peer)[0] == "Unavailable"
        if number < 999:
            peer.grpc.begin("/service/Method", (), b"again", timeout_s=1)
            peer.exchange()
    assert not peer.grpc.usable
    with pytest.raises(RuntimeError):
        peer.grpc.begin("/service/Method", (), b"again", timeout_s=1)


def trailers_only(peer: Peer) -> None:
    peer.h2.send_headers(1, [*OK_HEAD, ("grpc-status", "7"), ("grpc-message", "no%20identity")], end_stream=True)


def status_in_trailers(peer: Peer) -> None:
    peer.h2.send_headers(1, OK_HEAD)
    peer.h2.send_headers(1, [("grpc-status", "7"), ("grpc-message", "no%20identity")], end_stream=True)


def no_trailers(peer: Peer) -> None:
    peer.h2.send_headers(1, OK_HEAD)
    peer.h2.send_data(1, render_message(b"reply"), end_stream=True)


def nothing_but_a_head(peer: Peer) -> None:
    peer.h2.send_headers(1, OK_HEAD, end_stream=True)


def status_in_the_head_and_then_a_body(peer: Peer) -> None:
    peer.h2.send_headers(1, [*OK_HEAD, ("grpc-status", "0")])
    peer.h2.send_data(1, render_message(b"reply"), end_stream=True)


def ok_without_a_message(peer: Peer) -> None:
    peer.h2.send_headers(1, [*OK_HEAD, ("grpc-status", "0")], end_stream=True)


def two_messages(peer: Peer) -> None:
    peer.h2.send_headers(1, OK_HEAD)
    peer.h2.send_data(1, render_message(b"a") + render_message(b"b"))
    peer.h2.send_headers(1, [("grpc-status", "0")], end_stream=True)


def a_compressed_message(peer: Peer) -> None:
    peer.h2.send_headers(1, OK_HEAD)
    peer.h2.send_data(1, b"\1\0\0\0\1a")
    peer.h2.send_headers(1, [("grpc-status", "0")], end_stream=True)


def a_status_that_is_none(peer: Peer) -> None:
    peer.h2.send_headers(1, [*OK_HEAD, ("grpc-status", "banana")], end_stream=True)


def a_web_page(peer: Peer) -> None:
    peer.h2.send_headers(1, [(":status", "200"), ("content-type", "text/html")])
    peer.h2.send_data(1, b"<html>")


def not_found(peer: Peer) -> None:
    peer.h2.send_headers(1, [(":status", "404")], end_stream=True)


def forbidden_with_a_page(peer: Peer) -> None:
    peer.h2.send_headers(1, [(":status", "403"), ("content-type", "text/html")])


def an_informational_head_first(peer: Peer) -> None:
    peer.h2.send_headers(1, [(":status", "103")])
    trailers_only(peer)


def refused_stream(peer: Peer) -> None:
    peer.h2.reset_stream(1, 7)


def internal_reset(peer: Peer) -> None:
    peer.h2.reset_stream(1, 2)


def a_reply_announced_too_large(peer: Peer) -> None:
    peer.h2.send_headers(1, OK_HEAD)
    peer.h2.send_data(1, b"\0" + (REPLY_LIMIT_BYTES + 1).to_bytes(4, "big"))


def goaway_that_leaves_us_out(peer: Peer) -> None:
    peer.grpc.receive(peer.h2.data_to_send() + frame(7, 0, 0, bytes(8)))


ANSWERS: list[tuple[Callable[[Peer], None], str, bool]] = [
    (trailers_only, "PermissionDenied", True),
    (status_in_trailers, "PermissionDenied", True),
    (no_trailers, "Unknown", True),
    (nothing_but_a_head, "Unknown", True),
    (status_in_the_head_and_then_a_body, "Unknown", True),
    (ok_without_a_message, "Internal", True),
    (two_messages, "Internal", True),
    (a_compressed_message, "Internal", True),
    (a_status_that_is_none, "Unknown", True),
    (a_web_page, "Unknown", True),
    (not_found, "Unimplemented", True),
    (forbidden_with_a_page, "PermissionDenied", True),
    (an_informational_head_first, "PermissionDenied", True),
    (refused_stream, "Unavailable", True),
    (internal_reset, "Internal", True),
    (a_reply_announced_too_large, "ResourceExhausted", True),
    (goaway_that_leaves_us_out, "Unavailable", False),
]


@pytest.mark.parametrize(("behave", "code", "usable"), ANSWERS, ids=lambda value: getattr(value, "__name__", str(value)))
def test_each_way_to_end_a_call_has_its_code(behave: Callable[[Peer], None], code: str, usable: bool) -> None:
    peer = called()
    behave(peer)
    peer.exchange()
    assert answer(peer)[0] == code
    assert peer.grpc.usable is usable
    assert peer.grpc.idle


def test_a_status_text_is_decoded() -> None:
    peer = called()
    trailers_only(peer)
    peer.exchange()
    assert answer(peer) == ("PermissionDenied", "no identity")


def test_a_goaway_lets_the_running_call_finish() -> None:
    peer = called()
    peer.grpc.receive(peer.h2.data_to_send() + frame(7, 0, 0, (2**31 - 1).to_bytes(4, "big") + bytes(4)))
    assert not peer.grpc.usable
    assert peer.grpc.response is None
    peer.h2.send_headers(1, OK_HEAD)
    peer.h2.send_data(1, render_message(b"reply"))
    peer.h2.send_headers(1, [("grpc-status", "0")], end_stream=True)
    peer.exchange()
    assert answer(peer)[0] == "OK"
    assert not peer.grpc.usable


def test_a_reply_that_never_ends_is_refused_within_its_limit() -> None:
    peer = called()
    peer.h2.send_headers(1, OK_HEAD)
    peer.h2.send_data(1, b"\0" + REPLY_LIMIT_BYTES.to_bytes(4, "big"))
    sent = 0
    while peer.grpc.response is None and sent < 4 * REPLY_LIMIT_BYTES:
        size = min(16384, peer.h2.local_flow_control_window(1))
        peer.h2.send_data(1, bytes(size))
        sent += size
        peer.exchange()
    assert answer(peer)[0] == "ResourceExhausted"
    assert sent <= REPLY_LIMIT_BYTES + 16384
    assert peer.reset


def test_a_reply_of_one_mebibyte_arrives() -> None:
    peer = called()
    reply = bytes(REPLY_LIMIT_BYTES)
    peer.h2.send_headers(1, OK_HEAD)
    unsent = render_message(reply)
    while unsent:
        size = min(16384, len(unsent), peer.h2.local_flow_control_window(1))
        peer.h2.send_data(1, unsent[:size])
        unsent = unsent[size:]
        peer.exchange()
    peer.h2.send_headers(1, [("grpc-status", "0")], end_stream=True)
    peer.exchange()
    assert answer(peer)[0] == "OK"
    assert peer.grpc.response is not None
    assert len(peer.grpc.response.body) == REPLY_LIMIT_BYTES


@pytest.mark.parametrize(
    "noise",
    [frame(6, 0, 0, bytes(8)), frame(4, 0, 0), frame(8, 0, 0, b"\0\0\0\1"), frame(0x42, 0, 0, b"unknown"), frame(2, 0, 1, b"\0\0\0\0\1")],
    ids=["ping", "settings", "window_update", "unknown", "priority"],
)
def test_a_flood_of_frames_ends_the_connection(noise: bytes) -> None:
    peer = called()
    for _ in range(200):
        peer.grpc.receive(noise * 100)
        peer.grpc.outgoing()
    assert answer(peer)[0] in {"Unavailable", "ResourceExhausted"}
    assert not peer.grpc.usable


def test_a_flood_of_large_frames_ends_the_connection() -> None:
    peer = called()
    for _ in range(200):
        peer.grpc.receive(frame(0x42, 0, 0, bytes(16384)))
    assert answer(peer)[0] == "ResourceExhausted"
    assert not peer.grpc.usable


def test_what_a_peer_may_send_is_counted_from_call_to_call() -> None:
    peer = called()
    for number in range(5):
        peer.grpc.receive(peer.h2.data_to_send() + frame(0x42, 0, 0) * 2000)
        peer.h2.send_headers(1 + 2 * number, [*OK_HEAD, ("grpc-status", "14")], end_stream=True)
        peer.exchange()
        assert peer.grpc.usable
        peer.grpc.begin("/service/Method", (), b"again", timeout_s=1)
        peer.exchange()


def test_a_flood_while_no_call_runs_ends_the_connection() -> None:
    peer = called()
    trailers_only(peer)
    peer.exchange()
    for _ in range(200):
        peer.grpc.receive(frame(6, 0, 0, bytes(8)) * 100)
    assert not peer.grpc.usable
    assert answer(peer)[0] == "PermissionDenied"


def test_a_header_bomb_ends_the_connection() -> None:
    peer = called()
    fields = [("x-padding", "a" * 4000)] * 40
    peer.h2.send_headers(1, [*OK_HEAD, *fields])
    peer.grpc.receive(peer.h2.data_to_send())
    assert answer(peer)[0] == "Unavailable"
    assert not peer.grpc.usable


def test_a_pushed_stream_ends_the_connection() -> None:
    peer = called()
    peer.grpc.receive(frame(4, 0, 0) + frame(5, 4, 1, b"\0\0\0\2" + b"\x88"))
    assert answer(peer)[0] == "Unavailable"
    assert not peer.grpc.usable


def test_a_request_waits_for_the_window_of_its_peer() -> None:
    grpc = GrpcClientConnection("localhost")
    peer = Peer(grpc)
    peer.h2.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 0})
    grpc.receive(peer.h2.data_to_send())
    grpc.begin("/service/Method", (), b"ask" * 1000, timeout_s=1)
    peer.exchange()
    assert peer.body == b""
    for _ in range(7):
        peer.h2.increment_flow_control_window(500, 1)
        peer.exchange()
    assert peer.body == render_message(b"ask" * 1000)
    assert peer.ended


def test_a_peer_that_allows_no_stream_is_unavailable() -> None:
    grpc = GrpcClientConnection("localhost")
    peer = Peer(grpc)
    peer.h2.update_settings({h2.settings.SettingCodes.MAX_CONCURRENT_STREAMS: 0})
    grpc.receive(peer.h2.data_to_send())
    grpc.begin("/service/Method", (), b"ask", timeout_s=1)
    assert grpc.response is not None
    assert grpc.response.code == "Unavailable"
    assert not grpc.usable


def test_a_call_given_up_is_reset_and_its_late_answer_is_not_the_next_ones() -> None:
    peer = called()
    peer.grpc.cancel()
    assert answer(peer)[0] == "Canceled"
    peer.h2.send_headers(1, OK_HEAD)
    peer.h2.send_data(1, render_message(b"late"))
    late = peer.h2.data_to_send()
    peer.grpc.begin("/service/Method", (), b"next", timeout_s=1)
    peer.grpc.receive(late)
    assert peer.grpc.response is None
    peer.exchange()
    assert peer.reset
    peer.h2.send_headers(3, OK_HEAD)
    peer.h2.send_data(3, render_message(b"right"))
    peer.h2.send_headers(3, [("grpc-status", "0")], end_stream=True)
    peer.exchange()
    assert peer.grpc.response is not None
    assert fingerprint(peer.grpc.response.body) == fingerprint(Secret(b"right"))


def test_a_lost_connection_ends_the_call() -> None:
    peer = called()
    peer.grpc.lost()
    assert answer(peer) == ("Unavailable", "the connection closed before the answer")


@pytest.mark.parametrize(
    "noise",
    [
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"\x15\x03\x01\x00\x02\x02\x28" + bytes(9),
        b"\0" * 64,
        b"\xff" * 64,
        frame(7, 0, 0, b"\0"),
        frame(0, 0, 9, b"x"),
    ],
    ids=["http1", "tls", "zeros", "ones", "short goaway", "data on a stream that is none"],
)
def test_what_is_not_http2_is_unavailable(noise: bytes) -> None:
    peer = called()
    peer.grpc.receive(noise)
    assert answer(peer)[0] == "Unavailable"
    assert not peer.grpc.usable


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=600), st.integers(1, 50))
def test_no_bytes_escape_the_answer(noise: bytes, step: int) -> None:
    grpc = GrpcClientConnection("localhost")
    grpc.begin("/service/Method", (), b"ask", timeout_s=1)
    grpc.outgoing()
    grpc.receive(frame(4, 0, 0))
    for at in range(0, len(noise), step):
        grpc.receive(noise[at : at + step])
        grpc.outgoing()
    grpc.lost()
    assert grpc.response is not None
    assert grpc.response.code in CODES
    assert not grpc.usable


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 10), st.integers(0, 255), st.integers(0, 5), st.binary(max_size=40)), max_size=12))
def test_no_sequence_of_frames_escapes_the_answer(frames: list[tuple[int, int, int, bytes]]) -> None:
    peer = called()
    for kind, flags, stream, payload in frames:
        peer.grpc.receive(frame(kind, flags, stream, payload))
        peer.grpc.outgoing()
    peer.grpc.lost()
    assert peer.grpc.response is not None
    assert peer.grpc.response.code in CODES


@given(st.integers(1, 40))
def test_an_answer_cut_anywhere_is_the_same_answer(step: int) -> None:
    peer = called()
    peer.h2.send_headers(1, OK_HEAD)
    peer.h2.send_data(1, render_message(b"reply"))
    peer.h2.send_headers(1, [("grpc-status", "0")], end_stream=True)
    sent = peer.h2.data_to_send()
    for at in range(0, len(sent), step):
        peer.grpc.receive(sent[at : at + step])
    assert answer(peer)[0] == "OK"

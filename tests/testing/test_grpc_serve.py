"""The answering half of a gRPC connection, driven by our calling half."""

import pytest

from robin.model.secret import Secret
from robin.testing.grpc_serve import GrpcRequest, GrpcServer
from robin.wire.grpc_call import GrpcClientConnection
from robin.wire.jwt_inspection import fingerprint


def pass_bytes(grpc: GrpcClientConnection, server: GrpcServer) -> list[GrpcRequest]:
    """Both ways until nobody has any left; the calls that became whole."""
    calls: list[GrpcRequest] = []
    while True:
        sent, back = grpc.outgoing(), server.outgoing()
        if sent:
            calls += server.receive(sent)
        if back:
            grpc.receive(back)
        if not sent and not back:
            return calls


def test_a_call_arrives_whole_and_is_answered() -> None:
    grpc, server = GrpcClientConnection("localhost"), GrpcServer()
    grpc.begin("/a/B", ((b"key", b"value"),), b"ask" * 9000, timeout_s=1)
    (call,) = pass_bytes(grpc, server)
    assert (call.path, call.metadata["key"], call.message) == ("/a/B", "value", b"ask" * 9000)
    server.reply(call.stream, b"reply" * 40000)
    pass_bytes(grpc, server)
    assert grpc.response is not None
    assert grpc.response.code == "OK"
    assert fingerprint(grpc.response.body) == fingerprint(Secret(b"reply" * 40000))


def test_a_refusal_carries_its_text() -> None:
    grpc, server = GrpcClientConnection("localhost"), GrpcServer()
    grpc.begin("/a/B", (), b"ask", timeout_s=1)
    (call,) = pass_bytes(grpc, server)
    server.refuse(call.stream, "FailedPrecondition", "50 % über")
    pass_bytes(grpc, server)
    assert grpc.response is not None
    assert (grpc.response.code, grpc.response.text) == ("FailedPrecondition", "50 % ?ber")


def test_an_answer_to_a_call_given_up_is_dropped() -> None:
    grpc, server = GrpcClientConnection("localhost"), GrpcServer()
    grpc.begin("/a/B", (), b"ask", timeout_s=1)
    (call,) = pass_bytes(grpc, server)
    grpc.cancel()
    pass_bytes(grpc, server)
    server.reply(call.stream, b"late")
    server.refuse(call.stream, "Internal")
    assert server.outgoing() == b""


def test_a_request_without_end_is_refused() -> None:
    grpc, server = GrpcClientConnection("localhost"), GrpcServer()
    grpc.begin("/a/B", (), bytes(100_000), timeout_s=1)
    with pytest.raises(ValueError, match="too large"):
        pass_bytes(grpc, server)

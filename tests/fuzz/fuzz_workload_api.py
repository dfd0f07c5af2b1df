"""Invariant: any bytes as a Workload API reply are SVIDs that read back the same, or BadMessage; as HTTP/2 they end in an answer."""

# ruff: noqa: PT017 - a table of words; a check asserts on what was raised, outside of pytest too

from tests.fuzz.parts import pieces_of

from robin.model.secret import Secret
from robin.wire.grpc import parse_message, render_message
from robin.wire.grpc_call import GrpcClientConnection
from robin.wire.protobuf import BadMessage
from robin.wire.workload_api import JwtSvid, JwtSvidRequest, parse_reply, parse_request, render_reply, render_request

_SVID = JwtSvid(spiffe_id="spiffe://a/b", svid=Secret(b"x.y.z"), hint="h")
_SETTINGS = b"\x00\x00\x00\x04\x00\x00\x00\x00\x00"
_HEADERS = b"\x00\x00\x01\x01\x04\x00\x00\x00\x01\x88"
SEEDS = (
    render_reply((_SVID,)),
    render_reply((_SVID, JwtSvid(spiffe_id="", svid=Secret(b"")))),
    render_reply(()),
    render_request(JwtSvidRequest(audiences=("a", "b"), spiffe_id="spiffe://a/b")),
    b"\x0a\xff\xff\xff\xff\x0f",
    b"\x0a\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x01",
    b"\x0b\x0c",
    b"\x08\x01\x0d\x00\x00\x00\x00\x09\x00\x00\x00\x00\x00\x00\x00\x00",
    b"\x0a\x04\x0a\x02\xff\xfe",
    _SETTINGS + _HEADERS + b"\x00\x00\x07\x00\x00\x00\x00\x00\x01" + render_message(b"\x0a\x00"),
    _SETTINGS + b"\x00\x00\x08\x07\x00\x00\x00\x00\x00" + b"\x00" * 8,
    b"HTTP/1.1 400 Bad Request\r\n\r\n",
    _SETTINGS * 50,
    b"\xff" * 64,
)
WORDS = (
    b"\x0a", b"\x12", b"\x1a", b"\x00", b"\x80", b"\xff", b"\x0a\x00", b"\x7f", _SETTINGS, _HEADERS, b"\x88", b"\x40\x0bgrpc-status\x010",
    b"\x00\x00\x04\x03\x00\x00\x00\x00\x01\x00\x00\x00\x08", b"\x00\x00\x04\x08\x00\x00\x00\x00\x00\x7f\xff\xff\xff",
    b"\x00\x00\x08\x06\x00\x00\x00\x00\x00" + b"p" * 8, b"\x00\x00\x01\x09\x04\x00\x00\x00\x01\x88",
)  # fmt: skip


def check(data: bytes) -> None:
    """Raise when the invariant does not hold for `data`."""
    try:
        svids = parse_reply(Secret(data))
    except BadMessage as error:
        assert str(error).isascii()
    else:
        again = parse_reply(Secret(render_reply(svids)))
        assert [_plain(svid) for svid in again] == [_plain(svid) for svid in svids]
    try:
        request = parse_request(data)
    except BadMessage:
        pass
    else:
        assert parse_request(render_request(request)) == request
    message = parse_message(data)
    assert message is None or message in data
    _check_line(data)


def _plain(svid: JwtSvid) -> tuple[str, bytes, str]:
    return svid.spiffe_id, svid.svid.reveal(), svid.hint


def _check_line(data: bytes) -> None:
    """A peer that says these bytes, in two pieces, cannot make the line raise, nor answer what was not asked."""
    grpc = GrpcClientConnection("localhost")
    grpc.begin("/SpiffeWorkloadAPI/FetchJWTSVID", (), b"\x0a\x01a", timeout_s=1.0)
    for piece in pieces_of(data, sum(data)):
        grpc.receive(piece)
    grpc.lost()
    assert grpc.response is not None
    assert not grpc.usable
    assert len(grpc.outgoing()) < 1 << 20

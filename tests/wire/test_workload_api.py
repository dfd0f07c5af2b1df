"""FetchJWTSVID's messages: what we write a protobuf library would read, and hostile bytes are refused, never believed."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from robin.model.secret import Secret
from robin.wire.jwt_inspection import fingerprint
from robin.wire.protobuf import BadMessage
from robin.wire.workload_api import JwtSvid, JwtSvidRequest, parse_reply, parse_request, render_reply, render_request


def seen(svids: tuple[JwtSvid, ...]) -> list[tuple[str, bytes, str]]:
    return [(svid.spiffe_id, fingerprint(svid.svid), svid.hint) for svid in svids]


def test_a_request_has_the_bytes_of_the_protobuf_encoding() -> None:
    assert render_request(JwtSvidRequest(audiences=("aud",))) == b"\x0a\x03aud"
    assert render_request(JwtSvidRequest(audiences=("aud",), spiffe_id="spiffe://a/b")) == b"\x0a\x03aud\x12\x0cspiffe://a/b"
    assert render_request(JwtSvidRequest(audiences=("a" * 200,))) == b"\x0a\xc8\x01" + b"a" * 200


def test_a_reply_has_the_bytes_of_the_protobuf_encoding() -> None:
    svid = JwtSvid(spiffe_id="id", svid=Secret(b"tok"), hint="h")
    assert render_reply((svid,)) == b"\x0a\x0c\x0a\x02id\x12\x03tok\x1a\x01h"


@given(st.lists(st.text(max_size=300), max_size=4), st.text(max_size=40))
def test_a_request_comes_out_as_it_went_in(audiences: list[str], spiffe_id: str) -> None:
    request = JwtSvidRequest(audiences=tuple(audiences), spiffe_id=spiffe_id)
    assert parse_request(render_request(request)) == request


@given(st.lists(st.tuples(st.text(max_size=40), st.binary(max_size=300), st.text(max_size=10)), max_size=5))
def test_a_reply_comes_out_as_it_went_in(parts: list[tuple[str, bytes, str]]) -> None:
    svids = tuple(JwtSvid(spiffe_id=spiffe_id, svid=Secret(token), hint=hint) for spiffe_id, token, hint in parts)
    assert seen(parse_reply(Secret(render_reply(svids)))) == seen(svids)


def test_unknown_fields_are_skipped_and_the_last_of_a_repeated_scalar_counts() -> None:
    inner = (
        b"\x20\x96\x01"  # field 4, varint
        b"\x29"
        + bytes(8)
        + b"\x35"
        + bytes(4)  # fields 5 and 6, fixed
        + b"\x3a\x02zz"  # field 7, length
        b"\x08\x05"  # field 1 as a varint: another field for all we know
        b"\x0a\x01a\x0a\x02id\x12\x03tok"
    )
    reply = b"\x10\x01\x0a" + bytes([len(inner)]) + inner
    assert seen(parse_reply(Secret(reply))) == [("id", fingerprint(Secret(b"tok")), "")]


@pytest.mark.parametrize(
    "reply",
    [
        b"\x0a",  # no length
        b"\x0a\x05abc",  # length past the end
        b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\x7f",  # length 2^63
        b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x02",  # a varint past 64 bits
        b"\xff" * 11,  # a varint of eleven bytes
        b"\x80",  # a varint cut short
        b"\x00\x00",  # field number 0
        b"\x80\x80\x80\x80\x80\x20\x00",  # field number past 2^29
        b"\x0b\x0c",  # a group
        b"\x0e",  # wire type 6
        b"\x0f",  # wire type 7
        b"\x09\x01",  # fixed64 cut short
        b"\x0d\x01",  # fixed32 cut short
        b"\x08",  # varint missing
        b"\x0a\x03\x0a\x01\xff",  # a SPIFFE ID that is not UTF-8
        b"\x0a\x02\x0a\x05",  # inner length past the inner end
        b"\x0a\x00" * 1001,  # more identities than anybody has
        b"\x10\x01" * 2001,  # fields without end: half a million of them, which fit a reply, would hold the loop for half a second
        b"\x12\x00" * 2001,
        b"\x0a\x42" + b"\x22\x00" * 33,  # the same within one identity
    ],
)
def test_hostile_bytes_are_refused(reply: bytes) -> None:
    with pytest.raises(BadMessage):
        parse_reply(Secret(reply))


@given(st.binary(max_size=400))
def test_no_bytes_escape_the_refusal(reply: bytes) -> None:
    try:
        svids = parse_reply(Secret(reply))
    except BadMessage:
        return
    assert sum(len(svid.spiffe_id.encode()) + len(svid.svid) + len(svid.hint.encode()) for svid in svids) <= len(reply)


def test_a_repr_of_an_identity_hides_its_token() -> None:
    assert "tok" not in repr(JwtSvid(spiffe_id="id", svid=Secret(b"tok")))

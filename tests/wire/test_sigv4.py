"""Signatures of AWS requests (G27): vectors, what is signed and written, and the canonical forms where clients differ."""

import hashlib

import pytest
from tests.wire.sigv4_cases import CASES, KEY_ID, SECRET, TIME, Case

from robin.model.credential import Credential, SigningKeys
from robin.model.message import HeldBody, OutboundRequest
from robin.model.secret import Secret
from robin.wire.forwarding import render
from robin.wire.sigv4 import OF_BODY, OF_REQUEST, UNSIGNED, canonical_path, canonical_query, canonical_s3_path, query_names, sign_request


def signed(case: Case, payload: str | None = None) -> list[str]:
    """The lines of the head as they are sent."""
    lines = [f"{case.method} {case.target} HTTP/1.1", f"Host: {case.host}", *(f"{name}: {value}" for name, value in case.fields.items())]
    keys = SigningKeys(access_key_id=KEY_ID, secret_access_key=Secret(SECRET.encode()), session_token=Secret(case.token.encode()))
    token = (Secret(b"X-Amz-Security-Token: " + case.token.encode() + b"\r\n"),) if case.token else ()
    outbound = OutboundRequest(
        case.method, case.target.encode(), case.host.encode(), "".join(f"{line}\r\n" for line in lines).encode(), token, b"\r\n"
    )
    held = HeldBody(octets=case.body.encode(), sha256=hashlib.sha256(case.body.encode()).digest()) if case.body else None
    credential = Credential(fields=token, note="", identity=None, signing=keys)
    payload = payload or (UNSIGNED if case.unsigned else OF_BODY)
    done = sign_request(outbound, held, credential, TIME, service=case.service, region="us-east-1", payload=payload)
    return render(done).decode().removesuffix("\r\n\r\n").split("\r\n")


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_g27_a_request_is_signed_as_aws_and_botocore_sign_it(case: Case) -> None:
    assert signed(case)[-1].rpartition("Signature=")[2] == case.signature


def test_a_signature_covers_host_date_token_and_what_is_about_the_body_and_nothing_that_a_proxy_may_change() -> None:
    fields = {"Accept": "*/*", "User-Agent": "x", "X-Amz-Meta-A": "b", "Content-Type": "t/x", "x-amz-content-sha256": "0" * 64}
    lines = signed(Case(name="", signature="", fields=fields, service="s3"), OF_REQUEST)
    assert lines[2:4] == ["Accept: */*", "User-Agent: x"]
    assert lines[-2] == "X-Amz-Content-Sha256: " + "0" * 64
    assert sum("content-sha256:" in line.lower() for line in lines) == 1
    names = "content-type;host;x-amz-content-sha256;x-amz-date;x-amz-meta-a;x-amz-security-token"
    scope = f"{KEY_ID}/20150830/us-east-1/s3/aws4_request"
    assert lines[-1].startswith(f"Authorization: AWS4-HMAC-SHA256 Credential={scope}, SignedHeaders={names}, Signature=")
    assert SECRET not in "".join(lines)


@pytest.mark.parametrize(
    ("sent", "others", "s3"),
    [
        (b"/", b"/", b"/"),
        (b"/a/../../b", b"/b", b"/a/../../b"),
        (b"//a//", b"/a/", b"//a//"),
        (b"/a%20b", b"/a%2520b", b"/a%20b"),
        (b"/a%2fb+c:d", b"/a%252fb%2Bc%3Ad", b"/a%2Fb%2Bc%3Ad"),
        (b"/%41%7e%zz%", b"/%2541%257e%25zz%25", b"/A~%25zz%25"),
        (b"/\xc3\xa9", b"/%C3%A9", b"/%C3%A9"),
    ],
)
def test_a_path_is_normalised_and_encoded_once_more_except_for_s3(sent: bytes, others: bytes, s3: bytes) -> None:
    assert (canonical_path(sent), canonical_s3_path(sent)) == (others, s3)


@pytest.mark.parametrize(
    ("sent", "canonical"),
    [
        (b"", b""),
        (b"b=1&a=2&a=1", b"a=1&a=2&b=1"),
        (b"acl&&x=", b"acl=&x="),
        (b"a=b+c%2b", b"a=b%20c%2B"),
        (b"%61=%7E&a=b=c", b"a=b%3Dc&a=~"),
        (b"aB=1&a%2D=2&a.=3", b"a-=2&a.=3&aB=1"),
    ],
)
def test_a_query_is_sorted_in_one_spelling(sent: bytes, canonical: bytes) -> None:
    assert canonical_query(sent) == canonical


def test_the_name_of_a_parameter_is_recognised_in_any_spelling() -> None:
    assert b"x-amz-signature" in query_names(b"a=1&X%2DAmz-Signature=0")
    assert b"x-amz-signature" not in query_names(b"a=X-Amz-Signature")

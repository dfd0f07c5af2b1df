"""What stands for the body of a request that is signed: the table of grants.md 4.6, and what is refused (G28)."""

import pytest
from tests.permits import route

from robin.model.route import STREAMED, Held
from robin.policy.signing import Payload, Signing, SigningRefusal, plan_payload, signing_route
from robin.wire.http1 import parse_request

HEX = "a" * 64
TRAILER = "STREAMING-UNSIGNED-PAYLOAD-TRAILER"


SHORT = {"LENGTH": "Content-Length:", "CHUNKED": "Transfer-Encoding: chunked", "HASH": "x-amz-content-sha256:"}


def plan(fields: str, *, mode: str = "sigv4", service: str = "s3", scheme: str = "https", target: str = "/k") -> str:
    """The value's name, or the code and reason word of the refusal."""
    for short, long in SHORT.items():
        fields = fields.replace(short, long)
    octets = f"PUT {target} HTTP/1.1\r\nHost: h\r\n" + (f"{fields}\r\n" if fields else "") + "\r\n"
    head = parse_request(octets.encode(), fields_max=50, target_bytes=1000)
    found = plan_payload(head, Signing(mode=mode, service=service, region="us-east-1", limit_bytes=10), scheme)
    return f"{found.code} {found.detail.partition(':')[0]}" if isinstance(found, SigningRefusal) else found.name


@pytest.mark.parametrize(
    ("fields", "how", "expected"),
    [
        ("", {}, "EMPTY"),
        ("LENGTH 0", {}, "EMPTY"),
        ("LENGTH 10", {}, "BODY"),
        ("LENGTH 11", {}, "UNSIGNED"),
        ("CHUNKED", {}, "UNSIGNED"),
        ("LENGTH 11", {"scheme": "http"}, "signing_body_too_large too_large"),
        ("CHUNKED", {"scheme": "http"}, "signing_body_too_large too_large"),
        ("LENGTH 11", {"service": "dynamodb"}, "signing_body_too_large too_large"),
        ("CHUNKED", {"service": "dynamodb"}, "signing_body_too_large too_large"),
        (f"LENGTH 11\r\nHASH {HEX}", {}, "REQUEST"),
        (f"CHUNKED\r\nHASH {HEX.upper()}", {"scheme": "http", "service": "x"}, "REQUEST"),
        ("LENGTH 11\r\nHASH UNSIGNED-PAYLOAD", {}, "REQUEST"),
        ("LENGTH 11\r\nHASH UNSIGNED-PAYLOAD", {"scheme": "http"}, "signing_mode_unsupported plaintext"),
        (f"LENGTH 11\r\nHASH {TRAILER}", {}, "REQUEST"),
        (f"LENGTH 11\r\nHASH {TRAILER}", {"scheme": "http"}, "signing_mode_unsupported plaintext"),
        ("LENGTH 11\r\nHASH STREAMING-AWS4-HMAC-SHA256-PAYLOAD", {}, "signing_mode_unsupported chunked"),
        ("LENGTH 11\r\nHASH STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER", {}, "signing_mode_unsupported chunked"),
        ("LENGTH 11\r\nHASH STREAMING-AWS4-ECDSA-P256-SHA256-PAYLOAD", {"mode": "sigv4:no_body"}, "signing_mode_unsupported chunked"),
        (f"LENGTH 11\r\nHASH {TRAILER}", {"mode": "sigv4:body"}, "signing_mode_unsupported chunked"),
        (f"LENGTH 11\r\nHASH {HEX[1:]}", {}, "signing_mode_unsupported unknown"),
        ("HASH ", {}, "signing_mode_unsupported unknown"),
        (f"HASH {HEX}\r\nHASH {HEX}", {}, "signing_mode_unsupported repeated"),
        (f"HASH UNSIGNED-PAYLOAD\r\nHASH {TRAILER}", {}, "signing_mode_unsupported repeated"),
        (f"LENGTH 10\r\nHASH {HEX}", {"mode": "sigv4:body"}, "BODY"),
        ("LENGTH 10\r\nHASH UNSIGNED-PAYLOAD", {"mode": "sigv4:body"}, "BODY"),
        ("CHUNKED", {"mode": "sigv4:body"}, "BODY"),
        ("LENGTH 11", {"mode": "sigv4:body"}, "signing_body_too_large too_large"),
        (f"LENGTH 99\r\nHASH {HEX}", {"mode": "sigv4:no_body"}, "UNSIGNED"),
        ("", {"mode": "sigv4:no_body"}, "UNSIGNED"),
        ("", {"target": "/k?X-Amz-Signature=0"}, "caller_credential_refused signed_url"),
        ("", {"target": "/k?a=1&x%2Damz-signature"}, "caller_credential_refused signed_url"),
        ("", {"target": "/k?X-Amz-Security-Token=t", "mode": "sigv4:no_body"}, "caller_credential_refused signed_url"),
        ("", {"target": "/k?AWSAccessKeyId=A&Signature=b"}, "caller_credential_refused signed_url"),
        ("", {"target": "/k?prefix=X-Amz-Signature"}, "EMPTY"),
    ],
)
def test_the_value_for_the_body_follows_from_the_head(fields: str, how: dict[str, str], expected: str) -> None:
    assert plan(fields, **how) == expected


def test_a_body_is_held_only_where_its_digest_is_needed() -> None:
    signing = Signing(mode="sigv4", service="s3", region="us-east-1", limit_bytes=10)
    for payload in Payload:
        through = signing_route(route(), signing, payload)
        held = Held(limit_bytes=10, too_large="signing_body_too_large")
        assert through.body == (held if payload is Payload.BODY else STREAMED)
        assert through.sign is not None

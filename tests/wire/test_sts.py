"""The XML of AWS STS: what is accepted, and what is refused before or while it is parsed (G26)."""

import pytest

from robin.model.secret import Secret
from robin.wire.jwt_inspection import fingerprint
from robin.wire.sts import BadStsResponse, StsCredentials, parse_sts_credentials, parse_sts_error

KEYS = (
    "<AccessKeyId>ASIAEXAMPLE0EXAMPLE0</AccessKeyId><SecretAccessKey>secret/canary0EXAMPLE</SecretAccessKey>"
    "<SessionToken>token+/canary==</SessionToken><Expiration>2030-01-01T00:00:00Z</Expiration>"
)


def document(inner: str = KEYS, *, xmlns: str = ' xmlns="https://sts.amazonaws.com/doc/2011-06-15/"') -> bytes:
    result = (
        f"<AssumeRoleWithWebIdentityResult><Audience>a&amp;b</Audience><Credentials>{inner}</Credentials></AssumeRoleWithWebIdentityResult>"
    )
    metadata = "<ResponseMetadata><RequestId>c6104cbe-af31</RequestId></ResponseMetadata>"
    return f"<AssumeRoleWithWebIdentityResponse{xmlns}>{result}{metadata}</AssumeRoleWithWebIdentityResponse>".encode()


def parse(octets: bytes, media: str = "text/xml", **fields: str) -> StsCredentials:
    return parse_sts_credentials({"content-type": media, **fields}, Secret(octets), token_bytes_max=64)


@pytest.mark.parametrize(
    "octets",
    [
        document(),
        b'<?xml version="1.0" encoding="UTF-8"?>\n' + document(),
        b"\xef\xbb\xbf" + document(),
        document(xmlns=""),
        document(xmlns=' xmlns:s="x"').replace(b"Credentials>", b"s:Credentials>"),
        document().replace(b"<AccessKeyId>", b"<AccessKeyId>\n  "),
        document(KEYS.replace("2030-01-01T00:00:00Z", "2030-01-01T01:00:00.123+01:00")),
    ],
)
def test_the_keys_of_a_success_are_read_whatever_its_namespaces(octets: bytes) -> None:
    found = parse(octets)
    assert (found.keys.access_key_id, found.expires_at, found.request_id) == ("ASIAEXAMPLE0EXAMPLE0", 1893456000.0, "c6104cbe-af31")
    assert fingerprint(found.keys.secret_access_key) == fingerprint(Secret(b"secret/canary0EXAMPLE"))
    assert fingerprint(found.keys.session_token) == fingerprint(Secret(b"token+/canary=="))
    assert "canary" not in repr(found)


def without(name: str) -> bytes:
    start, end = KEYS.index(f"<{name}>"), KEYS.index(f"</{name}>") + len(name) + 3
    return document(KEYS[:start] + KEYS[end:])


@pytest.mark.parametrize(
    ("octets", "reason"),
    [
        (b'<!DOCTYPE a [<!ENTITY b "c">]>' + document(), "document_type"),
        (document().replace(b"a&amp;b", b"<![CDATA[x]]>"), "document_type"),
        (b"<?xml-stylesheet href='x'?>" + document(), "document_type"),
        (document().replace(b"a&amp;b", b"&b;"), "xml"),
        (b"<?xml version='1.0' encoding='UTF-16'?>".decode().encode("utf-16") + document(), "xml"),
        (document("+ADwAIQ-DOCTYPE").replace(b"<Ass", b"<?xml version='1.0' encoding='UTF-7'?><Ass", 1), "access_key"),
        (document()[:-5], "xml"),
        (b"", "xml"),
        (b"{}", "xml"),
        (document("<a>" * 17 + "</a>" * 17), "xml"),
        (b"<a>" * 20_000, "xml"),
        (document("<a/>" * 300), "xml"),
        (document(KEYS + KEYS), "duplicate_member"),
        (document(KEYS + "<SessionToken>x</SessionToken>"), "duplicate_member"),
        (document().replace(b"Result>", b"Other>"), "access_key"),
        (without("AccessKeyId"), "access_key"),
        (without("SecretAccessKey"), "access_key"),
        (without("SessionToken"), "session_token"),
        (document(KEYS.replace("token+/", "token\r\nX-Evil: ")), "session_token"),
        (document(KEYS.replace("token+/", "t" * 64)), "session_token"),
        (document(KEYS.replace("ASIA", "ASIA\n")), "access_key"),
        (without("Expiration"), "expiration"),
        (document(KEYS.replace("2030-01-01T", "2030-13-01T")), "expiration"),
        (document(KEYS.replace("2030-01-01T00:00:00Z", "tomorrow")), "expiration"),
    ],
)
def test_g26_a_success_that_is_not_acceptable_is_refused(octets: bytes, reason: str) -> None:
    with pytest.raises(BadStsResponse) as raised:
        parse(octets)
    assert raised.value.reason == reason


def test_a_success_that_is_no_xml_or_is_compressed_is_not_parsed() -> None:
    for media, fields, reason in (("text/html", {}, "media_type"), ("text/xml", {"content-encoding": "gzip"}, "content_coding")):
        with pytest.raises(BadStsResponse) as raised:
            parse(document(), media, **fields)
        assert raised.value.reason == reason


def error(code: str, request_id: str = "id-1") -> Secret:
    inner = f"<Error><Type>Sender</Type><Code>{code}</Code><Message>canary</Message></Error><RequestId>{request_id}</RequestId>"
    return Secret(f"<ErrorResponse>{inner}</ErrorResponse>".encode())


def test_of_an_error_only_a_known_code_and_the_id_of_the_request_are_kept() -> None:
    assert parse_sts_error(error("ExpiredTokenException")) == ("ExpiredTokenException", "id-1")
    assert parse_sts_error(error("canary", "canary canary")) == ("", "")
    assert parse_sts_error(Secret(b"<!DOCTYPE a><ErrorResponse/>")) == ("", "")
    assert parse_sts_error(Secret(b"Service Unavailable")) == ("", "")

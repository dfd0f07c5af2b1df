"""Invariant: any body of an issuer is a token that one field can hold, or is refused by a word of ours; and any target can be signed."""

# ruff: noqa: PT017 - a check asserts on what was raised, outside of pytest too

import json
import re

from robin.model.secret import Secret
from robin.wire.oauth import BadTokenResponse, parse_correlation_id, parse_impersonated, parse_token_error, parse_token_response
from robin.wire.sigv4 import canonical_path, canonical_query, canonical_s3_path, query_names
from robin.wire.sts import STS_ERRORS, BadStsResponse, parse_sts_credentials, parse_sts_error

_KEYS = (
    b"<AccessKeyId>ASIAEXAMPLE0EXAMPLE0</AccessKeyId><SecretAccessKey>secret/secret/secret</SecretAccessKey>"
    b"<SessionToken>token</SessionToken><Expiration>2030-01-01T00:00:00Z</Expiration>"
)
_RESULT = b"<AssumeRoleWithWebIdentityResult><Credentials>" + _KEYS + b"</Credentials></AssumeRoleWithWebIdentityResult>"
_STS = b'<AssumeRoleWithWebIdentityResponse xmlns="x">' + _RESULT + b"</AssumeRoleWithWebIdentityResponse>"
SEEDS = (
    _STS,
    b'<?xml version="1.0" encoding="UTF-16"?>' + _STS,
    b'<!DOCTYPE a [<!ENTITY b "' + b"c" * 99 + b'">]>' + _STS,
    _STS.replace(b">token<", b">&#13;&#10;&#60;<"),
    b"<a:b xmlns:a='c'>" * 40,
    b"<ErrorResponse><Error><Code>ExpiredTokenException</Code><Message>m</Message></Error><RequestId>1-a</RequestId></ErrorResponse>",
    json.dumps({"access_token": "abc", "token_type": "Bearer", "expires_in": 300, "scope": "a b"}).encode(),
    json.dumps({"accessToken": "abc", "expireTime": "2030-01-01T00:00:00.5+01:00"}).encode(),
    json.dumps({"error": "invalid_grant", "correlation_id": "0-a"}).encode(),
    b'{"expires_in":' + b"9" * 5000 + b"}",
    b"/a%20b/../c//d?b=2&a=%7e&a+=+&X-Amz-Signature=0&&=",
)
WORDS = (*tuple(b'< > </ <! <? &#0; &lt; ]]> : " { } [ null % %2 / ..'.split()), b"\xff", b"\x00", b" ")
_LINE = re.compile(rb"[!-~]+")


def check(data: bytes) -> None:
    """Raise when the invariant does not hold for `data`."""
    body = Secret(data)
    try:
        found = parse_sts_credentials({"content-type": "text/xml"}, body, token_bytes_max=4096)
    except BadStsResponse as bad:
        assert re.fullmatch("[a-z_]+", bad.reason)
    else:
        assert b"<!" not in data
        assert _LINE.fullmatch(found.keys.session_token.reveal())
        assert re.fullmatch(r"\w+", found.keys.access_key_id)
    code, request_id = parse_sts_error(body)
    assert code in STS_ERRORS | {""}
    assert re.fullmatch("[0-9A-Za-z-]{0,64}", request_id + parse_correlation_id(body)[:0])
    fields = {"content-type": "application/json"}
    for parse in (
        lambda: parse_token_response(fields, body, issued_type="", token_bytes_max=4096).access_token,
        lambda: parse_impersonated(fields, body, token_bytes_max=4096)[0],
    ):
        try:
            token = parse()
        except BadTokenResponse as bad:
            assert re.fullmatch("[a-z_]+", bad.reason)
        else:
            assert _LINE.fullmatch(token.reveal())
    parse_token_error(body)
    path, _, query = data.partition(b"?")
    for canonical in (canonical_path(path), canonical_s3_path(path), canonical_query(query)):
        assert re.fullmatch(rb"[A-Za-z0-9._~/%&=-]*", canonical)
    assert canonical_query(canonical_query(query)) == canonical_query(query)
    assert query_names(canonical_query(query)) <= query_names(query) | {b""}

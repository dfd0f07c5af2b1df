"""Items P1, P5 and P6 of the specification: published vectors and check values, byte for byte.

Files of others are read from the folder that INTEROP_VECTORS names, or from `shared/vectors` beside the repository; they are not copied.
"""

import hashlib
import json
import os
from pathlib import Path

import pytest
from tests.planes.broker.rig import seed_key

from robin.wire import http_signature as sig
from robin.wire.compact_jws import encode_base64url, parse_compact
from robin.wire.passport_keys import from_raw, parse_public
from robin.wire.transcript import EMPTY_SHA256, Transcript, build_transcript, hash_value, normalize_query

VECTORS = Path(os.environ.get("INTEROP_VECTORS") or Path(__file__).parents[4] / "shared" / "vectors")


def vector(name: str) -> str:
    path = VECTORS / name
    if not path.exists():
        pytest.skip(f"{path} is not here: set INTEROP_VECTORS to the folder with the vectors of others")
    return path.read_text()


def orders(**changes: object) -> Transcript:
    values = {
        "method": "POST",
        "scheme": "https",
        "authority": "orders.example",
        "path": "/v1/orders",
        "query": "",
        "audience": "orders-api",
        "route_id": "orders.create",
        "content_encoding": "identity",
        "headers": (("content-type", hash_value("application/json")), ("x-trustplane-nonce", hash_value("nonce-v1-001"))),
        "body_sha256": hashlib.sha256(b'{"order_id":"ord_123","amount":"42.00"}').hexdigest(),
        "jti": "passport-v1-minimal-001",
        "nonce": "nonce-v1-001",
        "issued_at": 1740000000,
        "key_binding": "hardware_local",
    }
    return Transcript(**{**values, **changes})


def test_the_transcript_of_check_value_1_and_its_proof():
    digest = hashlib.sha256(build_transcript(orders()))
    assert digest.hexdigest() == "703765699c81a705b9e9b6bb6b73fd5b2e79440693a1520a9873bb32a954f45f"
    proof = encode_base64url(seed_key().sign(digest.digest()))
    assert proof == "cZztnvDyC4hZssoB6UkTQ1ukJbiJLD_iHYBF_Ad9pWLNUsHCkR1fjCcPQ_L46ZRZI6pIEfmn0OMEcsi7iQHSCQ"


def test_the_transcript_with_the_ambiguous_query():
    query = "z=last&a=2&a=10&space=a%20b&encoded=%7E&empty="
    assert normalize_query(query) == "a=10&a=2&empty=&encoded=~&space=a%20b&z=last"
    headers = (("content-type", hash_value("application/json")), ("x-trustplane-nonce", hash_value("nonce-ambiguous-001")))
    built = build_transcript(
        orders(
            method="GET",
            path="/v1/orders/search",
            query=query,
            route_id="orders.search",
            headers=headers,
            body_sha256=EMPTY_SHA256,
            jti="passport-v1-ambiguous-001",
            nonce="nonce-ambiguous-001",
            issued_at=1740000021,
        )
    )
    assert hashlib.sha256(built).hexdigest() == "2e8a658352d8133ef3c4149865f4a3ad287857c414c6dfc8925e2c85519d37c8"


def test_the_published_broker_exchange_has_the_published_digest():
    exchange = json.loads(vector("trustplane/broker-ipc-v1.success.json"))
    http, artifacts = exchange["request"]["http"], exchange["response"]["artifacts"]
    built = build_transcript(
        orders(
            query=http["query"]["raw"],
            headers=tuple((one["name"], one["value_sha256"]) for one in http["headers"]["selected"]),
            body_sha256=http["body_sha256"],
            nonce=http["nonce"],
            jti=artifacts["passport"]["jti"],
            issued_at=exchange["response"]["issued_at"],
        )
    )
    assert hashlib.sha256(built).hexdigest() == artifacts["stamp"]["transcript_sha256"]
    assert artifacts["stamp"]["transcript_sha256"] == "379c7719c7cfea89d4353f66b64c6e0da96be62cf01b9122269085a9f6703b10"


@pytest.mark.parametrize("name", ["transcript-v1.json", "transcript-v1.ambiguous-query-headers.json"])
def test_the_published_transcripts_line_by_line(name):
    vector_ = json.loads(vector(f"trustplane/{name}"))
    part = vector_["transcript"]
    built = build_transcript(
        orders(
            **{name: part[name] for name in ("method", "path", "route_id", "body_sha256", "nonce", "issued_at")},
            query=vector_["raw_request"]["query"],
            headers=tuple((one["name"], one["value_sha256"]) for one in part["headers"]["selected"]),
            jti=part["passport_jti"],
        )
    )
    assert built.decode().split("\n") == vector_["canonical"]["lines"]


def test_the_signature_of_rfc_9421_b_2_6():
    text = '("date" "@method" "@path" "@authority" "content-type" "content-length");created=1618884473;keyid="test-key-ed25519"'
    (member,) = sig.parse_signature_input(f"sig-b26={text}")
    fields = (("date", "Tue, 20 Apr 2021 02:07:55 GMT"), ("content-type", "application/json"), ("content-length", "18"))
    message = sig.Message(method="POST", scheme="https", authority="example.com", target="/foo?param=Value&Pet=dog", fields=fields)
    base = sig.build_base(message, member.components, member.text)
    assert hashlib.sha256(base).hexdigest() == "e6402577f54303accfda63dfbde1a7b8c5e5e6f3f7898637b7d78dc07ee1896a"
    key = parse_public({"kty": "OKP", "crv": "Ed25519", "x": "JrQLj5P_89iXES9-vFgrIy29clF9CC_oPPsw3c5D0bs"})
    signature = ":wqcAqbmYJ2ji2glfAMaRy4gruYYnx2nEFN2HN6jrnDnQCK1u02Gb04v9EDgwUPiu4A0w6vuQv5lIp5WPpBKRCw==:"
    assert key.verifies(sig.parse_binary(signature), base)


def test_the_base_and_signature_of_the_own_check_value():
    components = ["@method", "@request-target", "@authority", "workload-identity-token"]
    parameters = sig.request_parameters(created=1740000000, expires=1740000060, nonce="A" * 22, audience="orders-api")
    fields = (("workload-identity-token", "e30.e30.c2ln"),)
    message = sig.Message(method="GET", scheme="https", authority="orders.example", target="/orders?a=1&b=2", fields=fields)
    base = sig.build_base(message, components, sig.render_parameters(components, parameters))
    assert hashlib.sha256(base).hexdigest() == "7f3413be9380caa6feb2b0eccca82fd3a2ee194b103a4be779fa5d780ffc5ba8"
    wanted = ":GelDZIqmrmqw3s0nKpBdh8OUp5pnxJtvI20v38eS4v2IrvhuXNBTsG8PcyFMWexJ5EpfbvVZ/5KPRyUE38HBCQ==:"
    assert sig.render_binary(seed_key().sign(base)) == wanted
    assert from_raw(seed_key().public_key().public_bytes_raw()).verifies(sig.parse_binary(wanted), base)


def test_the_request_of_the_wimse_draft_verifies_with_the_key_of_its_token():
    head, _, _ = vector("wimse/sigs-request.txt").partition("\n\n")
    line, *rest = head.strip().split("\n")
    fields = tuple((name.lower(), value) for name, _, value in (one.partition(": ") for one in rest))
    method, target, _ = line.split(" ")
    (member,) = sig.parse_signature_input(dict(fields)["signature-input"])
    message = sig.Message(method=method, scheme="https", authority=dict(fields)["host"], target=target, fields=fields)
    base = sig.build_base(message, member.components, member.text)
    assert hashlib.sha256(base).hexdigest() == "fc0ac47bbbab6f8b39ff64b9bd680e44f716eba49b4292e389b4e3b73a15c3f4"
    token = parse_compact(dict(fields)["workload-identity-token"])
    key = parse_public(token.claims["cnf"]["jwk"])
    assert key.verifies(sig.parse_binaries(dict(fields)["signature"])["wimse"], base)

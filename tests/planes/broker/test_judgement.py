"""Items P8, P10 to P12 and P14 to P22: what broker and verifier say of one request, by tables and a clock that is set."""

import dataclasses
import hashlib
import json
import re

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from tests.planes.broker.rig import NOW, SOURCE, Rig, field, more, route, with_field

from robin.model.passport import HTTPSIG, PROFILES, TRANSCRIPT, Axes
from robin.model.passport_reasons import REASONS, Refused
from robin.planes.broker.keys import IssuerKeyPair
from robin.planes.broker.replay import MemoryReplayStore, RateLimit
from robin.planes.broker.responses import status_of
from robin.wire.compact_jws import encode_base64url, render_compact
from robin.wire.passport_keys import public_jwk
from robin.wire.transcript import EMPTY_SHA256, Transcript, build_transcript, hash_value
from robin.wire.trust_bundle import BundleRefused, check_routes, parse_route

BODY = b'{"order_id":"ord_123"}'
TYPE = (("content-type", "application/json"),)

OF_ABC = ":ungWv48Bz+pBQUDeXa4iI7ADYaOWF3qctBD/YfIAFa0=:"
both = pytest.mark.parametrize("profile", PROFILES)


@both
def test_what_was_signed_is_accepted_once(profile):
    rig = Rig()
    request = rig.signed(profile)
    assert rig.verify(request) == "passport_verified"
    assert rig.verify(request) == ("jti_replay" if profile == TRANSCRIPT else "nonce_replay")
    assert (rig.found.credited.identity, rig.found.route.route_id) == ("peercred", "orders.read")


@both
def test_a_body_is_part_of_what_was_signed(profile):
    rig = Rig()
    request = rig.signed(profile, "POST", "/orders", body=BODY, fields=TYPE)
    assert rig.verify(request, BODY[:-1] + b"]") == "body_digest_mismatch"
    assert rig.verify(request, BODY) == "passport_verified"


def changed(request, what):
    """One byte changed."""
    replaced = {
        "method": {"method": "POST"},
        "target": {"target": "/orders/2"},
        "query": {"target": "/orders/1?a=1"},
        "authority": {"authority": "orders.example:8443"},
    }
    if what in replaced:
        return dataclasses.replace(request, **replaced[what])
    name = what
    value = field(request, name)
    at = len(value) // 2
    return with_field(request, name, value[:at] + ("A" if value[at] != "A" else "B") + value[at + 1 :])


@pytest.mark.parametrize(
    ("profile", "what"),
    [(profile, what) for profile in PROFILES for what in ("method", "target", "query", "authority")]
    + [(TRANSCRIPT, f"x-trustplane-{name}") for name in ("proof", "nonce", "transcript-sha256", "body-sha256")]
    + [(TRANSCRIPT, "authorization"), (HTTPSIG, "workload-identity-token"), (HTTPSIG, "signature"), (HTTPSIG, "signature-input")],
)
def test_one_byte_changed_is_not_accepted(profile, what):
    rig = Rig(route(), route("orders.post", method="POST", path_template="/orders/{id}"))
    assert rig.verify(changed(rig.signed(profile), what)) != "passport_verified"


@both
def test_a_covered_header_changed_is_not_accepted(profile):
    rig = Rig()
    request = rig.signed(profile, "POST", "/orders", body=BODY, fields=TYPE)
    wanted = "request_binding_mismatch" if profile == TRANSCRIPT else "invalid_request_proof"
    assert rig.verify(with_field(request, "content-type", "text/plain"), BODY) == wanted


@pytest.mark.parametrize(
    ("query", "detail"),
    [
        ("q=a+b", "query_not_canonical"),
        ("q=%FF", "query_not_canonical"),
        ("q=%7E", "query_not_canonical"),
        ("q=%2f", "query_not_canonical"),
        ("a=2&a=10", "query_repeated_key"),
        ("a", "query_not_canonical"),
        ("", "query_not_canonical"),
        ("a=1&", "query_not_canonical"),
        ("b=1&a=1", "query_order"),
    ],
)
def test_an_ambiguous_query_is_refused_by_broker_and_verifier_and_taken_by_the_other_profile(query, detail):
    rig = Rig()
    with pytest.raises(Refused) as refused:
        rig.signed(TRANSCRIPT, target=f"/orders/1?{query}")
    assert (refused.value.reason.code, refused.value.detail) == ("transcript_ambiguous", detail)
    request = dataclasses.replace(rig.signed(TRANSCRIPT), target=f"/orders/1?{query}")
    assert rig.verify(request) == f"transcript_ambiguous/{detail}"
    assert rig.verify(rig.signed(HTTPSIG, target=f"/orders/1?{query}")) == "passport_verified"


def test_the_route_may_allow_any_order_and_repeated_keys():
    rig = Rig()
    assert rig.verify(rig.signed(TRANSCRIPT, target="/any?b=1&a=2&a=1")) == "passport_verified"


@pytest.mark.parametrize("path", ["/a%2Fb", "/a/", "//a", "/a/../b", "/a\\b", "/{a}", "/a/./b"])
def test_an_unsafe_path_is_refused_by_broker_and_verifier(path):
    rig = Rig()
    with pytest.raises(Refused) as refused:
        rig.issue(rig.ask(TRANSCRIPT, target=path))
    assert refused.value.detail == "unsafe_request_path"
    assert rig.verify(dataclasses.replace(rig.signed(TRANSCRIPT), target=path)) == "transcript_ambiguous/unsafe_request_path"


def test_a_line_feed_and_a_covered_header_on_two_lines_are_ambiguous():
    rig = Rig()
    with pytest.raises(Refused) as refused:
        rig.issue(rig.ask(TRANSCRIPT, audience="orders-api\n"))
    assert refused.value.detail == "control_character"
    request = rig.signed(TRANSCRIPT, "POST", "/orders", body=BODY, fields=TYPE)
    assert rig.verify(more(request, "content-type", "text/plain"), BODY) == "transcript_ambiguous/duplicate_header"


def test_a_query_that_means_the_same_in_other_words_is_another_request():
    rig = Rig()
    request = rig.signed(HTTPSIG, target="/orders/1?q=a+b")
    assert rig.verify(dataclasses.replace(request, target="/orders/1?q=a%2Bb")) == "invalid_request_proof"


def test_what_is_added_to_a_signed_request_is_not_covered():
    rig = Rig()
    request = rig.signed(HTTPSIG)
    assert rig.verify(dataclasses.replace(request, body_bytes=3), b"abc").startswith("proof_coverage_insufficient")
    assert rig.verify(dataclasses.replace(request, body_bytes=None), b"abc").startswith("proof_coverage_insufficient")
    assert rig.verify(more(request, "authorization", "Bearer opaque")) == "proof_coverage_insufficient/authorization"
    assert rig.verify(more(request, "txn-token", "abc")) == "proof_coverage_insufficient/txn-token"
    assert rig.verify(request) == "passport_verified"


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text + ';keyid="x"',
        lambda text: text + ';alg="ed25519"',
        lambda text: text + ";unknown=1",
        lambda text: f"{text}, other={text.partition('=')[2]}",
        lambda text: text.replace('"@method"', '"@method" "@method"'),
        lambda text: text.replace('"workload-identity-token"', '"workload-identity-token";sf'),
        lambda text: text.replace('" "', '"  "'),
        lambda text: text.replace(";created=", ";created=0"),
        lambda text: text.replace(";nonce=", ";nonce=1;nonce="),
    ],
)
def test_a_signature_input_outside_the_profile_is_malformed(change):
    rig = Rig()
    request = rig.signed(HTTPSIG)
    assert rig.verify(with_field(request, "signature-input", change(field(request, "signature-input")))).startswith("proof_malformed")


def test_the_detail_of_a_refusal_holds_no_text_of_the_request():
    rig = Rig()
    request = rig.signed(HTTPSIG)
    named = field(request, "signature-input").replace('"@authority"', '"@authority" "told-by-the-client"')
    assert rig.verify(with_field(request, "signature-input", named)) == "proof_malformed/component"


def test_a_signed_response_is_not_supported():
    rig = Rig()
    request = rig.signed(HTTPSIG)
    asked = with_field(request, "signature-input", field(request, "signature-input") + ";wimse-sign-response")
    assert rig.verify(asked) == "response_signing_unsupported"
    assert REASONS["response_signing_unsupported"].httpsig == 501


def test_both_profiles_at_once_are_ambiguous_and_a_wit_is_no_bearer():
    rig = Rig()
    one, other = rig.signed(TRANSCRIPT), rig.signed(HTTPSIG)
    assert rig.verify(dataclasses.replace(one, fields=one.fields + other.fields)) == "profile_ambiguous"
    bearer = f"Bearer {field(other, 'workload-identity-token')}"
    assert rig.verify(with_field(one, "authorization", bearer)).startswith("passport_malformed")
    only = Rig(route(profiles=[HTTPSIG]))
    plain = dataclasses.replace(one, fields=(("authorization", bearer),))
    assert only.verify(plain) == "passport_malformed/wit_as_bearer"


def forged(rig: Rig, header: dict[str, object] | None = None, claims: dict[str, object] | None = None, *, drop: str = "") -> str:
    """A passport signed by the issuer, with other members."""
    key = Ed25519PrivateKey.generate()
    x = public_jwk(key)["x"]
    plain = {"iss": "https://issuer.example", "sub": "spiffe://example.org/agent", "aud": "orders-api", "iat": NOW, "exp": NOW + 300}
    cnf = {"kid": x, "public_key_b64url": x, "key_binding": "software"}
    body = {**plain, "jti": "jti-1", "trust_domain": "example.org", "cnf": cnf, **(claims or {})}
    body.pop(drop, None)
    return render_compact({"alg": "EdDSA", "kid": rig.key.kid, "typ": "JWT", **(header or {})}, body, rig.key.key.sign)


@pytest.mark.parametrize("alg", ["none", "HS256", "RS256", "ES256"])
def test_an_algorithm_outside_the_list_is_refused(alg):
    rig = Rig()
    request = with_field(rig.signed(TRANSCRIPT), "authorization", f"Bearer {forged(rig, {'alg': alg})}")
    assert rig.verify(request) == "passport_algorithm_not_allowed"


MALFORMED = {
    "two audiences": lambda rig: forged(rig, claims={"aud": ["orders-api", "other"]}),
    "another typ": lambda rig: forged(rig, {"typ": "wit+jwt"}),
    "a key in the header": lambda rig: forged(rig, {"jwk": {}}),
    "a URL in the header": lambda rig: forged(rig, {"jku": "https://attacker.example/keys"}),
    "no subject": lambda rig: forged(rig, drop="sub"),
    "a line end in the subject": lambda rig: forged(rig, claims={"sub": "spiffe://example.org/a\r\nX: y"}),
    "9 KiB": lambda rig: forged(rig, claims={"more": "x" * 9000}),
    "true for a time": lambda rig: forged(rig, claims={"iat": True}),
    "padded base64url": lambda rig: forged(rig) + "==",
    "two segments": lambda rig: forged(rig).rpartition(".")[0],
}


def duplicate(rig: Rig) -> str:
    claims = b'{"iss":"a","iss":"b"}'
    header, _, signature = forged(rig).split(".")
    return f"{header}.{encode_base64url(claims)}.{signature}"


MALFORMED["a duplicate member"] = duplicate


@pytest.mark.parametrize("name", MALFORMED)
def test_a_passport_that_is_not_in_its_form_is_malformed(name):
    rig = Rig()
    request = with_field(rig.signed(TRANSCRIPT), "authorization", f"Bearer {MALFORMED[name](rig)}")
    assert rig.verify(request).startswith("passport_malformed")


REFUSED = {
    "passport_untrusted_key/unknown_key": {"header": {"kid": "other"}},
    "passport_untrusted_key/issuer": {"claims": {"iss": "https://other.example"}},
    "passport_not_yet_valid": {"claims": {"iat": NOW + 60, "exp": NOW + 100}},
    "passport_expired": {"claims": {"iat": NOW - 500, "exp": NOW - 5}},
    "passport_lifetime_exceeded": {"claims": {"exp": NOW + 601}},
    "audience_mismatch": {"claims": {"aud": "other-api"}},
    "source_trust_domain_mismatch/subject": {"claims": {"sub": "spiffe://other.example/agent"}},
    "request_binding_mismatch": {},
}


@pytest.mark.parametrize("wanted", REFUSED)
def test_a_passport_is_refused_for_its_own_reason(wanted):
    rig = Rig()
    request = with_field(rig.signed(TRANSCRIPT), "authorization", f"Bearer {forged(rig, **REFUSED[wanted])}")
    assert rig.verify(request) == wanted


def changed_document(**changes):
    def change(rig: Rig) -> None:
        rig.document |= changes

    return change


def changed_route(**changes):
    def change(rig: Rig) -> None:
        rig.document["routes"] = [route(**changes)]

    return change


def changed_source(**changes):
    return changed_route(
        allowed_sources=[{"source_type": "software_jwks", "issuer": "https://issuer.example", "trust_domain": "example.org"} | changes]
    )


BUNDLES = {
    "bundle_route_missing": changed_document(routes=[]),
    "stale_bundle_fail_closed": changed_document(not_after=NOW - 1),
    "bundle_freshness_unknown": changed_route(freshness_class="often"),
    "profile_not_allowed": changed_route(profiles=[HTTPSIG]),
    "source_issuer_mismatch": changed_source(issuer="https://other.example"),
    "source_trust_domain_mismatch": changed_source(trust_domain="other.example"),
    "source_subject_mismatch": changed_source(subject_prefix="spiffe://example.org/age"),
    "insufficient_key_binding": changed_route(required_key_binding="attested_workload"),
    "missing_provenance": changed_source(provenance_policy={"profile": "trustplane-spiffe-spire-k8s-v1"}),
    "missing_context": changed_route(ctx={"required_tool_name": "shell"}),
    "covered_header_missing": changed_route(covered_headers=["x-trustplane-nonce", "x-tenant"]),
    "passport_revoked": lambda rig: rig.document.update(revocations=[{"kind": "kid", "value": rig.key.kid, "until": NOW + 9}]),
}


@pytest.mark.parametrize("wanted", BUNDLES)
def test_a_bundle_decides(wanted):
    rig = Rig()
    request = rig.signed(TRANSCRIPT)
    BUNDLES[wanted](rig)
    assert rig.verify(request).partition("/")[0] == wanted


def test_a_digest_that_the_route_always_covers_is_that_of_the_body():
    rig = Rig(route(method="POST", path_template="/orders", extra_components=["content-digest"]))
    assert rig.verify(rig.signed(HTTPSIG, "POST", "/orders", body=b"abc"), b"abc") == "passport_verified"
    for asked in ({}, {"body": b"abc", "fields": (("content-digest", f"sha-256={OF_ABC}"),)}):
        with pytest.raises(Refused, match="covered_headers_mismatch"):
            rig.signed(HTTPSIG, "POST", "/orders", **asked)


@pytest.mark.parametrize("where", ["trust_domains", "revocations"])
def test_a_member_that_is_not_known_is_not_passed_over_in_silence(where):
    rig = Rig()
    rig.document["revocations"] = [{"kind": "kid", "value": "other", "until": NOW + 60}]
    assert rig.verify(rig.signed(TRANSCRIPT)) == "passport_verified"
    rig.document[where][0]["not_befor"] = NOW + 60
    with pytest.raises(BundleRefused, match="unknown member"):
        rig.verify(rig.signed(TRANSCRIPT))


def test_of_two_revocations_of_one_value_the_longer_one_counts():
    rig = Rig()
    request = rig.signed(TRANSCRIPT)
    ends = [NOW + 60, NOW - 60]
    rig.document["revocations"] = [{"kind": "kid", "value": rig.key.kid, "until": until} for until in ends]
    assert rig.verify(request) == "passport_revoked/kid"


def test_a_context_value_that_the_route_does_not_allow():
    rig = Rig(route(ctx={"allow": ["purpose", "max_txn_value"], "max_txn_value": "100.00"}))
    request = rig.signed(TRANSCRIPT, ctx={"purpose": "test", "max_txn_value": "99.5"})
    assert rig.verify(request) == "passport_verified"
    with pytest.raises(Refused, match="context_mismatch") as refused:
        rig.signed(TRANSCRIPT, ctx={"max_txn_value": "100.01"})
    assert refused.value.detail == "max_txn_value"
    for amount in ("-1", "1e1", "\u0661", "1_0", " 1", "1.", "NaN"):
        with pytest.raises(Refused, match="context_mismatch"):
            rig.signed(TRANSCRIPT, ctx={"max_txn_value": amount})
    with pytest.raises(Refused, match="context_mismatch"):
        rig.signed(TRANSCRIPT, ctx={"tool_name": "shell", "max_txn_value": "1"})


def test_the_provenance_is_that_of_the_source_rule():
    rig = Rig()
    changed_source(provenance_policy={"required_posture": "spiffe_svid_verified"})(rig)
    signer = {"class": "software", "identity": "none", "key_protection": "software"}
    extension = {"route_id": "orders.read", "signer": signer, "provenance": {"posture": "none"}, "ctx": {}}
    token = forged(rig, claims={"urn:robin:passport:v1": extension})
    assert rig.verify(with_field(rig.signed(TRANSCRIPT), "authorization", f"Bearer {token}")) == "provenance_mismatch/posture"


def test_another_issuers_signature_is_not_right():
    rig = Rig()
    request = rig.signed(TRANSCRIPT)
    rig.document["trust_domains"][0]["issuers"][0]["keys"][0]["x"] = public_jwk(Ed25519PrivateKey.generate())["x"]
    assert rig.verify(request) == "passport_signature_invalid"


def test_the_cap_of_the_issuer_counts_and_not_the_claim():
    rig = Rig(route(require={"identity": "peercred"}))
    assert rig.verify(rig.signed(HTTPSIG)) == "passport_verified"
    rig.document["trust_domains"][0]["issuers"][0]["max_identity"] = "none"
    assert rig.verify(rig.signed(HTTPSIG)) == "insufficient_key_binding"


@pytest.mark.parametrize(("extended", "wanted"), [(True, "route_mismatch/passport"), (False, "request_binding_mismatch")])
def test_a_passport_of_one_route_is_not_for_another(extended, wanted):
    rig = Rig(extended=extended)
    assert rig.verify(dataclasses.replace(rig.signed(TRANSCRIPT), target="/orders")) == wanted


def test_a_wit_of_one_route_is_not_for_another():
    rig = Rig()
    assert rig.verify(dataclasses.replace(rig.signed(HTTPSIG), target="/orders")) == "route_mismatch/passport"


@both
def test_a_proof_lives_as_long_as_its_age_and_the_skew(profile):
    rig = Rig()
    request = rig.signed(profile)
    rig.now = NOW + 66
    assert rig.verify(request) == "nonce_stale"
    assert REASONS["nonce_stale"].status(profile) == (403 if profile == TRANSCRIPT else 400)
    rig.now = NOW + 64
    assert rig.verify(request) == "passport_verified"
    rig.now = NOW - 6
    assert rig.verify(request) in {"proof_not_yet_valid", "passport_not_yet_valid"}


@both
def test_a_proof_from_before_the_start_could_have_been_used(profile):
    rig = Rig()
    assert rig.verify(rig.signed(profile), not_before_at=NOW) == "nonce_stale/before_start"


def test_a_proof_expires_before_it_is_stale():
    rig = Rig()
    request = rig.signed(HTTPSIG)
    with_short = with_field(request, "signature-input", re.sub(r"expires=\d+", f"expires={NOW + 1}", field(request, "signature-input")))
    rig.now = NOW + 6
    assert rig.verify(with_short) == "proof_expired"
    assert rig.verify(with_field(request, "signature", None)) == "proof_missing"


def test_credentials_have_a_limit():
    rig = Rig()
    assert rig.verify(more(rig.signed(TRANSCRIPT), "signature", "x" * 16384)) == "header_too_large"


SEGMENTS = {
    True: ["a%20b", "a..b", "...", "a;b", "%2e%2e%2e", "a%3Fb", "..a"],
    False: ["..", ".", "%2e%2E", "%252e.", "..;a", "..%3b", "..%00", "a%2Fb", "a%252fb", "a%5cb", "a\\b", "a%00", "a%2", "%", ".%23", ""],
}


@pytest.mark.parametrize("fits", SEGMENTS)
def test_a_name_of_a_template_is_one_segment_for_every_server(fits):
    rig = Rig()
    for segment in SEGMENTS[fits]:
        target = f"/orders/{segment}"
        if fits:
            assert rig.verify(rig.signed(HTTPSIG, target=target)) == "passport_verified", segment
            continue
        with pytest.raises(Refused, match="route_mismatch"):
            rig.signed(HTTPSIG, target=target)
        assert rig.verify(dataclasses.replace(rig.signed(HTTPSIG), target=target)) == "bundle_route_missing", segment


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"route_id": "a\r\nX: y"}, "not visible ASCII"),
        ({"path_template": "/orders/x{id}"}, "path_template"),
        ({"path_template": "/orders?a=1"}, "path_template"),
        ({"authorities": ["Orders.example"]}, "lower case"),
        ({"scheme": "ftp"}, "not one of its words"),
        ({"ctx": {"max_txn_value": "1e3"}}, "max_txn_value"),
        ({"ctx": {"allow": ["colour"]}}, "ctx.allow"),
        ({"freshness_class": {"a": 1}}, "another type"),
        ({"extra_components": ["@path"]}, "no field name"),
    ],
)
def test_a_route_that_could_never_fit_or_would_break_a_header_is_refused(change, part):
    with pytest.raises(BundleRefused, match=re.escape(part)):
        parse_route(route(**change))
    with pytest.raises(BundleRefused, match="more than 1024 routes"):
        check_routes(tuple(parse_route(route(f"r{number}", path_template=f"/r{number}")) for number in range(1025)))


def test_an_unauthorised_replay_is_reported_as_unauthorised():
    rig = Rig()
    request = rig.signed(HTTPSIG)
    assert rig.verify(request) == "passport_verified"
    rig.document["routes"] = [route(required_key_binding="hardware_local")]
    assert rig.verify(request) == "insufficient_key_binding"


def test_junk_proofs_with_the_name_of_a_victim_use_nothing_up():
    rig = Rig()
    request = rig.signed(TRANSCRIPT)
    junk = with_field(request, "x-trustplane-proof", encode_base64url(bytes(64)))
    assert {rig.verify(junk) for _ in range(1000)} == {"invalid_request_proof"}
    assert rig.verify(request) == "passport_verified"


def test_a_name_that_a_service_could_take_for_a_covered_one_is_refused():
    """CGI and WSGI read `_` and `-` as one."""
    tenant = {"covered_headers": ["x-trustplane-nonce", "x-tenant-id"], "extra_components": ["x-tenant-id"]}
    rig = Rig(route(), route("orders.all", path_template="/orders", **tenant))
    for profile in PROFILES:
        request = rig.signed(profile)
        for name in ("x_trustplane_nonce", "x-trustplane_nonce", "workload_identity-token", "txn_token", "content_type", "content-digest"):
            wanted = "proof_coverage_insufficient/content-digest" if profile == HTTPSIG else "passport_verified"
            wanted = "passport_malformed/underscore" if "_" in name else wanted
            assert rig.verify(more(request, name, "x"), consume=False) == wanted, name
        covered = rig.signed(profile, target="/orders", fields=(("x-tenant-id", "1"),))
        assert rig.verify(more(covered, "x_tenant-id", "2")) == "passport_malformed/underscore"
        assert rig.verify(more(covered, "x_other", "2")) == "passport_verified"


@pytest.mark.parametrize(
    ("profiles", "status", "names"),
    [
        ([TRANSCRIPT], 401, {b"WWW-Authenticate"}),
        ([HTTPSIG], 400, {b"Accept-Signature"}),
        (list(PROFILES), 401, {b"WWW-Authenticate", b"Accept-Signature"}),
    ],
)
def test_without_a_credential_the_answer_says_what_would_be_taken(profiles, status, names):
    rig = Rig(route(profiles=profiles))
    bare = dataclasses.replace(rig.signed(profiles[0]), fields=())
    assert rig.verify(bare) == "passport_missing"
    found, lines = status_of(REASONS["passport_missing"], rig.found.profile, rig.found.route)
    assert found == status
    assert {line.partition(b":")[0] for line in lines.split(b"\r\n") if line} == names


def test_a_store_that_is_full_denies_and_forgets_only_what_expired():
    store = MemoryReplayStore(2)
    assert [store.consume(key, 10.0, 0.0) for key in (b"a", b"b", b"c", b"a")] == ["fresh", "fresh", "full", "seen"]
    assert store.consume(b"c", 20.0, 11.0) == "fresh"
    assert len(store) == 1


def test_the_rate_of_one_user_is_not_that_of_another():
    rate = RateLimit(per_s=200.0, burst=400.0)
    assert [rate.take(1, 0.0) for _ in range(401)] == [True] * 400 + [False]
    assert rate.take(2, 0.0)
    assert rate.take(1, 0.01)


def test_a_bundle_with_a_self_issued_key_admits_only_its_own_subject():
    """Item P4; the public SDK shows the same in tests/real."""
    rig = Rig(route(allowed_sources=[SOURCE, {**SOURCE, "issuer": "https://self.example"}]))
    key = Ed25519PrivateKey.generate()
    jwk = {**public_jwk(key), "kid": "self-1", "alg": "EdDSA"}
    issuer = rig.issuer_entry(cap="none", iss="https://self.example", kind="self", keys=[jwk], subject_exact="spiffe://example.org/agent")
    rig.document["trust_domains"][0]["issuers"].append(issuer)
    text = json.dumps(rig.document)
    assert '"self"' in text
    x = public_jwk(key)["x"]
    claims = {"iss": "https://self.example", "cnf": {"kid": x, "public_key_b64url": x, "key_binding": "software"}}
    token = forged(rig, {"kid": "self-1"}, claims)
    request = with_field(rig.signed(TRANSCRIPT), "authorization", f"Bearer {token}")
    assert rig.verify(request) == "passport_signature_invalid"  # signed by the broker's key, not by its own
    broker, rig.key = rig.key, IssuerKeyPair(kid="self-1", status="active", created=NOW, since=NOW, key=key)
    passport = {"x-trustplane-nonce": "nonce-of-mine", "authorization": f"Bearer {forged(rig, claims=claims)}"}
    built = build_transcript(
        Transcript(
            method="GET",
            scheme="https",
            authority="orders.example",
            path="/orders/1",
            query="",
            audience="orders-api",
            route_id="orders.read",
            content_encoding="identity",
            headers=(("x-trustplane-nonce", hash_value("nonce-of-mine")),),
            body_sha256=EMPTY_SHA256,
            jti="jti-1",
            nonce="nonce-of-mine",
            issued_at=NOW,
            key_binding="software",
        )
    )
    digest = hashlib.sha256(built)
    passport |= {"x-trustplane-transcript-sha256": digest.hexdigest(), "x-trustplane-body-sha256": EMPTY_SHA256}
    passport["x-trustplane-proof"] = encode_base64url(key.sign(digest.digest()))
    own = dataclasses.replace(request, fields=tuple(passport.items()))
    assert rig.verify(own) == "passport_verified"
    assert rig.found.credited == Axes()
    issuers = rig.document["trust_domains"][0]["issuers"]
    assert rig.verify(own) == "jti_replay"
    removed = issuers.pop()
    assert rig.verify(own) == "passport_untrusted_key/unknown_key"
    issuers.append(removed)
    rig.key = broker
    other = forged(rig, {"kid": "self-1"}, {**claims, "sub": "spiffe://example.org/other"})
    assert rig.verify(with_field(request, "authorization", f"Bearer {other}")) == "passport_untrusted_key/self_issued"

"""A broker and a verifier in one process with a clock that tests set: issue for a request, change it, and see what the verifier says."""

import dataclasses
import hashlib
import json
import os
from functools import lru_cache

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from robin.model.passport import HTTPSIG, TRANSCRIPT, ReceivedRequest
from robin.model.passport_reasons import Refused
from robin.planes.broker.issuer import Issuer, IssuerSettings
from robin.planes.broker.keys import IssuerKeyPair, make_key
from robin.planes.broker.replay import MemoryReplayStore
from robin.policy.broker_issue import Peer, PeerRule, find_principal, find_rules, guard_request, judge_issue
from robin.policy.passport_proof import ProofRules, check_body
from robin.policy.passport_verify import Findings, VerifyRules, replay_key, verify_head
from robin.wire.broker_ipc import IssueRequest
from robin.wire.compact_jws import encode_base64url
from robin.wire.passport_keys import public_jwk
from robin.wire.transcript import hash_value
from robin.wire.trust_bundle import TrustBundle, parse_bundle, parse_route

NOW = 1740000000
ISSUER, DOMAIN, SUBJECT = "https://issuer.example", "example.org", "spiffe://example.org/agent"
SOURCE = {"source_type": "software_jwks", "issuer": ISSUER, "trust_domain": DOMAIN}
AUTHORITY = "orders.example"


def route(route_id: str = "orders.read", **changes: object) -> dict[str, object]:
    """One route as a bundle has it."""
    plain = {"route_id": route_id, "audiences": ["orders-api"], "method": "GET", "path_template": "/orders/{id}"}
    return {**plain, "authorities": [AUTHORITY], "allowed_sources": [SOURCE], **changes}


ROUTES = (
    route(),
    route("orders.all", path_template="/orders"),
    route("orders.create", method="POST", path_template="/orders"),
    route("orders.any", path_template="/any", query_order="any", repeated_keys=True),
)


class Rig:
    """`now` is the clock of both."""

    def __init__(
        self,
        *routes: dict[str, object],
        cap: str = "peercred",
        extended: bool = True,
        alg: str = "Ed25519",
        key: IssuerKeyPair | None = None,
    ) -> None:
        self.now = float(NOW)
        self.key = key or make_key(status="active", created=NOW)
        self.routes = tuple(parse_route(one) for one in routes or ROUTES)
        settings = IssuerSettings(issuer=ISSUER, trust_domain=DOMAIN, extended=extended, jose_alg_name=alg)
        self.issuer = Issuer(settings, (self.key,), os.urandom)
        self.document = {
            "version": "robin-bundle-v1",
            "serial": 1,
            "created_at": NOW - 10,
            "not_after": NOW + 86400,
            "trust_domains": [{"name": DOMAIN, "issuers": [self.issuer_entry(cap=cap)]}],
            "routes": [dict(one) for one in routes or ROUTES],
            "revocations": [],
        }
        self.replay = MemoryReplayStore(1000)
        self.found = Findings()

    def issuer_entry(self, *, cap: str = "peercred", **changes: object) -> dict[str, object]:
        """The issuer of the bundle."""
        keys = [{**public_jwk(self.key.key), "kid": self.key.kid, "alg": "Ed25519"}]
        entry = {"iss": ISSUER, "kind": "broker", "source_type": "software_jwks", "profiles": [TRANSCRIPT, HTTPSIG], "keys": keys}
        return {**entry, "max_identity": cap, "max_key_protection": "software", "subject_exact": None, **changes}

    def sign(self, octets: bytes) -> str:
        """A signature of the issuer's key, as a bundle has it."""
        return encode_base64url(self.key.key.sign(octets))

    def ask(self, profile: str, method: str = "GET", target: str = "/orders/1", *, body: bytes = b"", **changes: object) -> IssueRequest:
        """What a client of the own envelope asks for."""
        fields = changes.pop("fields", ())
        values = {
            "version": "robin-broker-ipc-v1",
            "request_id": "r1",
            "profile": profile,
            "method": method,
            "scheme": "https",
            "authority": AUTHORITY,
            "target": target,
            "content_encoding": "identity",
            "audience": None,
            "route_id": None,
            "nonce": None,
            "body_sha256": hashlib.sha256(body).hexdigest() if body else None,
            "headers": tuple((name, hash_value(value)) for name, value in fields),
            "fields": tuple(fields),
        }
        return IssueRequest(**{**values, **changes})

    def issue(self, request: IssueRequest, *, guarded: bool = True) -> list[tuple[str, str]]:
        """The headers of a passport for the request. Raises Refused."""
        if guarded:
            guard_request(request)
        rule = PeerRule(name="me", subject=SUBJECT, routes=tuple(one.route_id for one in self.routes), uid=1000)
        principal = find_principal(find_rules(Peer(uid=1000, gid=1000, pid=1), [rule]))
        draft = self.issuer.draft(judge_issue(request, principal, self.routes), now=self.now, monotonic=0)
        return self.issuer.sign(draft).headers

    def signed(
        self, profile: str, method: str = "GET", target: str = "/orders/1", *, body: bytes = b"", **changes: object
    ) -> ReceivedRequest:
        """A request with its passport, as the verifier receives it."""
        request = self.ask(profile, method, target, body=body, **changes)
        fields = [*request.fields, *((name.lower(), value) for name, value in self.issue(request))]
        return ReceivedRequest(method=method, target=target, authority=AUTHORITY, fields=tuple(fields), body_bytes=len(body))

    def verify(self, request: ReceivedRequest, body: bytes = b"", *, consume: bool = True, **rules: object) -> str:
        """The reason code of the verifier, with the detail behind a slash where there is one."""
        proof = ProofRules(**{"scheme": "https", "max_age_s": 60.0, "skew_s": 5.0, "not_before_at": 0.0, **rules})
        bundle = parsed(json.dumps(self.document))
        found = self.found = Findings()
        try:
            verify_head(request, bundle, "", VerifyRules(authorities=frozenset({AUTHORITY}), proof=proof), self.now, found)
            check_body(found.proof, found.route, body)
            if consume and self.replay.consume(replay_key(found), found.proof.until, self.now) == "seen":
                raise Refused("jti_replay" if found.profile == TRANSCRIPT else "nonce_replay")
        except Refused as refused:
            return "/".join(filter(None, (refused.reason.code, refused.detail)))
        return "passport_verified"


@lru_cache(maxsize=16)
def parsed(text: str) -> TrustBundle:
    """The bundle of a document."""
    return parse_bundle(text.encode(), None)


def with_field(request: ReceivedRequest, name: str, value: str | None) -> ReceivedRequest:
    """The request with this field replaced, or without it."""
    fields = [(other, old) for other, old in request.fields if other != name]
    return dataclasses.replace(request, fields=tuple(fields + ([] if value is None else [(name, value)])))


def more(request: ReceivedRequest, name: str, value: str) -> ReceivedRequest:
    """The request with one more field line."""
    return dataclasses.replace(request, fields=(*request.fields, (name, value)))


def field(request: ReceivedRequest, name: str) -> str:
    """The value of a field."""
    return request.values(name)[0]


def seed_key() -> Ed25519PrivateKey:
    """The key of the specification's check values."""
    return Ed25519PrivateKey.from_private_bytes(bytes(range(32)))

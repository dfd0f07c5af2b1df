"""Records are rendered in one pass, with what repeats kept: they say what the values say, whatever was recorded before them."""

import json
import random
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from tests.telemetry.audit_rig import Folder
from tests.telemetry.test_audit_verify import judge

from robin.model.address import Dialled, Resolution, ResolvedAddress
from robin.model.caller import Caller, Connect, Evidence
from robin.model.origin import Origin
from robin.model.verdict import Denial
from robin.planes.gateway.grant_records import GrantRecords
from robin.planes.gateway.metrics import GatewayMetrics
from robin.planes.gateway.record_texts import RecordTexts, draft
from robin.planes.gateway.records import GatewayRecords
from robin.policy.gateway import NO_NOTES
from robin.telemetry.audit import AuditLog
from robin.telemetry.audit_chain import LINE_BYTES
from robin.telemetry.record import ExchangeRecord

ODD = ["", "plain", "100%", "%(id)s %s", '"\\', "\x7f\x00\n", "caf\u00e9", "\U0001f600", "\ud800 half"]


def records_of(log: AuditLog) -> GatewayRecords:
    return GatewayRecords(
        log, GatewayMetrics(report=False), GrantRecords(None), instance="r\u00f6bin%", fail_closed=True, notes_of=lambda _: NO_NOTES
    )


@asynccontextmanager
async def opened(folder: Folder) -> AsyncIterator[GatewayRecords]:
    async with folder.opened() as log:
        yield records_of(log)


def random_exchange(rng: random.Random, number: int) -> ExchangeRecord:
    """A refused exchange whose members are any of few values, so that they come together in new ways and in old ones."""

    def odd() -> str:
        return rng.choice(ODD)

    caller = Caller(evidence=rng.choice(list(Evidence)), listener=odd(), id=odd(), issuer=odd(), pod=odd(), address=odd())
    connect = Connect(id=odd(), scheme="https", host="h", port=443) if rng.random() < 0.5 else None
    record = ExchangeRecord(Caller(**{name: getattr(caller, name) for name in caller.__slots__ if name != "connect"}, connect=connect), 0.0)
    record.request_id, record.method = f"{number:032x}", rng.choice(["GET", "POST", None])
    record.path = rng.choice([None, b"/", b"/%s?\xff\x7f", b"/" + b"x" * 2000])
    record.outcome, record.status = rng.choice(["rule_denied", "upstream_closed", "drain_cut"]), rng.choice([None, 403])
    origin = Origin(scheme="http", host=rng.choice(["a.test", "b%s.test"]), port=80, authority=b"a.test")
    record.verdict = rng.choice([None, Denial(code="rule_denied", detail="", rule=odd(), origin=origin)])
    record.bytes_in, record.bytes_out, record.duration_s = rng.randrange(9), rng.randrange(2**40), rng.random()
    record.ttfb_s, record.reused = rng.choice([None, 0.25]), rng.choice([None, True, False])
    found = Resolution(count=2, refused=("private",), seconds=0.5)
    record.address = rng.choice([None, ResolvedAddress(host="::1", port=1, resolution=rng.choice([None, found]))])
    record.dialled = rng.choice([None, Dialled(connect_s=0.125), Dialled(connect_s=0.125, tls_s=0.25, tls="1.3", cert_sha256="ab")])
    if rng.random() < 0.5:
        record.notes["why"] = odd()
    return record


def written(members: dict[str, Any]) -> str:
    """As a record has it: half of a surrogate pair is spelled out."""
    return json.dumps(members).replace("\\ud800 half", "\\\\ud800 half")


def expected(record: ExchangeRecord) -> Iterator[dict[str, Any]]:
    """What the members of its two records are, said plainly."""
    caller, address, dialled, denial = record.caller, record.address, record.dialled, record.verdict
    origin = denial.origin if isinstance(denial, Denial) else None
    why = str(record.notes.get("why", ""))
    common: dict[str, Any] = {
        "id": record.request_id,
        "kind": "gateway",
        "instance": "r\u00f6bin%",
        "generation": 1,
        "connect_id": None if caller.connect is None else caller.connect.id,
        "listener": caller.listener,
        "caller": {"id": caller.id, "evidence": caller.evidence, "issuer": caller.issuer, "pod": caller.pod, "addr": caller.address},
        "grant": None,
    }
    found = None if address is None else address.resolution
    decision = {
        "op": "request",
        "method": record.method,
        "scheme": None if origin is None else "http",
        "host": None if origin is None else origin.host,
        "port": None if origin is None else 80,
        "path": None if record.path is None else record.path[:1024].decode("latin-1"),
        "tls": "bridge" if caller.connect is not None else None if origin is None else "plain",
        "verdict": "deny" if record.outcome == "rule_denied" else "failed",
        "code": record.outcome,
        "why": "" if why == record.outcome else why,
        "rule": denial.rule if isinstance(denial, Denial) else "",
        "route": None,
        "would_deny": "",
        "addresses": {"count": 2, "refused": ["private"], "chosen": "::1"} if found else {"count": 0, "refused": [], "chosen": None},
        "dns_ms": None if found is None else 500,
    }
    yield common | {"event": "gateway.decision"} | decision
    spent = dialled is not None and not record.reused
    yield common | {
        "event": "gateway.close",
        "status": record.status,
        "sni": None,
        "bytes_up": record.bytes_in,
        "bytes_down": record.bytes_out,
        "duration_ms": round(record.duration_s * 1000),
        "ttfb_ms": None if record.ttfb_s is None else 250,
        "connect_ms": 125 if spent else None,
        "tls_ms": 250 if spent and dialled is not None and dialled.tls_s else None,
        "upstream": None
        if address is None
        else {
            "ip": "::1",
            "port": 1,
            "reused": bool(record.reused),
            "tls": None if dialled is None else dialled.tls,
            "cert_sha256": None if dialled is None else dialled.cert_sha256,
        },
        "fault": "" if record.outcome == "drain_cut" else record.outcome,
        "reason": "drain" if record.outcome == "drain_cut" else "error",
    }


async def test_records_say_what_the_exchanges_were_whatever_was_kept_of_those_before(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder, rng = Folder(tmp_path_factory.mktemp("records")), random.Random(12)
    exchanges = [random_exchange(rng, number) for number in range(400)]
    async with opened(folder) as records:
        for exchange in exchanges:
            records.finish(exchange)
    said = [one for one in folder.records() if one["event"].startswith("gateway.")]
    wanted = [json.loads(written(one)) for exchange in exchanges for one in expected(exchange)]
    chain = {"v", "seq", "prev", "hash", "ts", "plane"}
    assert [{name: value for name, value in one.items() if name not in chain} for one in said] == wanted
    assert judge(folder, folder.log.read_bytes())[1] is None


async def test_a_record_that_is_too_large_is_shortened_and_not_missing(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = Folder(tmp_path_factory.mktemp("large"))
    exchange = random_exchange(random.Random(1), 1)
    exchange.caller = Caller(evidence=Evidence.JWT, listener="proxy", id="jwt:a/" + "\u00e9" * LINE_BYTES, issuer="a")
    async with opened(folder) as records:
        records.finish(exchange)
    said = [one for one in folder.records() if one["event"].startswith("gateway.")]
    assert [one["event"] for one in said] == ["gateway.decision", "gateway.close"]
    assert {one["caller"]["id"] for one in said} == {("jwt:a/" + "\u00e9" * LINE_BYTES)[:256]}
    assert judge(folder, folder.log.read_bytes())[1] is None


def test_what_is_kept_is_bounded_and_holds_no_path_and_nothing_of_what_was_denied() -> None:
    texts = RecordTexts(plane="gateway", instance="robin")
    for number in range(3000):
        texts.caller(Caller(evidence=Evidence.JWT, listener="proxy", id=f"jwt:a/{number}"))
        found = Resolution(count=1, refused=(), seconds=0.0)
        address = ResolvedAddress(host=f"{number}.addresses.test", port=1, resolution=found)
        texts.address(address)
        texts.upstream(address, None, None)
        for verdict, name in (("permit", "allowed"), ("deny", "declined")):
            fixed = (1, "proxy", "request", "GET", "http", f"{name}{number}.test", 80, "plain", verdict, "", "", "", None, "")
            draft(texts.decision(fixed), "t", ['"t"', *["null"] * 3, '"/canary"', *["null"] * 3])
    tables = {name: getattr(texts, name) for name in texts.__slots__ if name not in {"_instance", "_plane"}}
    pieces = [getattr(layout, name) for layout in tables["_layouts"].values() for name in layout.__slots__]
    kept = repr([tables, pieces])
    assert all(0 < len(table) <= 1024 for table in tables.values())
    assert "allowed2999.test" in kept
    assert "canary" not in kept
    assert "declined" not in kept
    assert kept.count("jwt:a/") <= 2 * 1024
    assert kept.count("allowed") <= 4 * 1024

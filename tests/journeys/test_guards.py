"""Browsers and servers that are tricked into calling Robin: Origin, Sec-Fetch-Site, the required header (L4, L5)."""

from pathlib import Path

import pytest
from tests.corpus.judge import check_problem
from tests.journeys.life import metric, serving


def get(*fields: str, method: str = "GET") -> bytes:
    return "\r\n".join([f"{method} /x HTTP/1.1", "Host: localhost", *fields, "", ""]).encode("latin-1")


REFUSED = [
    ("Sec-Fetch-Site: cross-site",),
    ("Sec-Fetch-Site: same-site",),
    ("sec-fetch-site:CROSS-SITE",),
    ("Sec-Fetch-Site: none", "Sec-Fetch-Site: cross-site"),
    ("Origin: https://evil.example",),
    ("Origin: null",),
    ("Origin: http://localhost",),
    ("Origin: https://app.example:444",),
    ("Origin: http://app.example",),
    ("Origin: https://app.example.evil.example",),
    ("Origin: https://app.example", "Origin: https://evil.example"),
    ("Origin: https://app.example, https://evil.example",),
    ("Origin:",),
    ("Origin: https://evil.example", "Sec-Fetch-Site: same-origin"),
]
SERVED = [
    (),
    ("Sec-Fetch-Site: same-origin",),
    ("Sec-Fetch-Site: none",),
    ("Origin: https://app.example",),
    ("Origin: https://app.example", "Sec-Fetch-Site: cross-site"),
]


async def test_l4_cross_site_requests_of_browsers_are_403_and_a_listed_origin_is_served(tmp_path: Path):
    async with serving(tmp_path, settings={"ROBIN_ALLOWED_ORIGINS": "https://app.example"}) as rig:
        for fields in REFUSED:
            answer = await rig.ask(get(*fields))
            assert answer.status == 403, fields
            check_problem(answer, "origin_refused")
        assert rig.bytes_seen == 0
        for fields in SERVED:
            assert (await rig.ask(get(*fields))).status == 200, fields
        assert len(rig.seen) == len(SERVED)
        assert await metric(rig.robin, "robin_requests_total", outcome="origin_refused") == len(REFUSED)


async def test_l4_without_a_list_every_origin_is_refused(tmp_path: Path):
    async with serving(tmp_path) as rig:
        for origin in ("https://app.example", "null", "http://127.0.0.1:4000"):
            check_problem(await rig.ask(get(f"Origin: {origin}")), "origin_refused")
        preflight = get("Origin: https://app.example", "Access-Control-Request-Method: PUT", method="OPTIONS")
        check_problem(await rig.ask(preflight), "origin_refused")
        assert rig.bytes_seen == 0


async def test_l4_the_switch_turns_the_host_and_browser_guards_off(tmp_path: Path):
    async with serving(tmp_path, settings={"ROBIN_UNSAFE_ANY_HOST": "true"}) as rig:
        raw = get("Origin: https://evil.example", "Sec-Fetch-Site: cross-site").replace(b"localhost", b"rebound.example")
        assert (await rig.ask(raw)).status == 200
        (warning,) = [event for event in rig.robin.events if event["event"] == "unsafe"]
        assert warning["switch"] == "any_host"


@pytest.mark.parametrize("setting", ["X-Robin-Caller", "X-Robin-Caller:yes", "x_robin_caller:yes"])
async def test_l5_the_required_header_must_be_there_and_is_not_passed_on(tmp_path: Path, setting: str):
    with_value = ":" in setting
    async with serving(tmp_path, settings={"ROBIN_REQUIRE_HEADER": setting}) as rig:
        wrong = [(), ("X-Robin: yes",), *([("X-Robin-Caller: no",), ("X-Robin-Caller: YES",), ("X-Robin-Caller:",)] if with_value else [])]
        for fields in wrong:
            answer = await rig.ask(get(*fields))
            assert answer.status == 403, fields
            check_problem(answer, "required_header_missing")
            assert b"yes" not in answer.body
        assert rig.bytes_seen == 0
        for fields in (("X-Robin-Caller: yes",), ("x-robin-caller:\tyes ",)):
            assert (await rig.ask(get(*fields, "X-Kept: 1"))).status == 200, fields
        for _, seen in rig.seen:
            assert [value for name, value in seen.fields if name.lower().replace(b"_", b"-") == b"x-robin-caller"] == []
            assert seen.values(b"x-kept") == [b"1"]

"""A finding is well, to be looked at, or failing, and carries its fix apart."""

import pytest

from robin.cli.findings.finding import Finding, Health, fail, from_detail, ok, warn


def test_the_three_kinds_of_finding() -> None:
    assert ok("clock", "right") == Finding(subject="clock", health=Health.OK, what="right", fix="")
    assert warn("clock", "off", "set it").health is Health.WARN
    assert fail("clock", "off", "set it") == Finding(subject="clock", health=Health.FAIL, what="off", fix="set it")


@pytest.mark.parametrize(
    ("detail", "what", "fix"),
    [
        ("missing: no file; mount it", "missing: no file", "mount it"),
        ("missing: no file; not here; mount it", "missing: no file; not here", "mount it"),
        ("missing", "missing", ""),
    ],
)
def test_a_detail_ends_in_its_fix(detail: str, what: str, fix: str) -> None:
    assert from_detail("token", detail) == fail("token", what, fix)

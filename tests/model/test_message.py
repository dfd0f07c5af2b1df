"""A head says no more than it was told: each new one is closed, unframed and permits nothing."""

import pytest

from robin.model.message import Field, Framing, Layout, RequestHead, RequestOutline, ResponseHead, ResponseOutline


def test_a_new_request_has_no_body_no_upgrade_and_no_host() -> None:
    head = RequestHead("GET", b"/x?y", RequestOutline((), 1), [])
    assert (head.framing, head.length, head.path) == (Framing.NONE, 0, b"/x")
    assert (head.upgrade, head.host, head.outline.hop) == (None, b"", frozenset())
    assert head.expects_continue is False


@pytest.mark.parametrize(("minor", "goes_on"), [(1, True), (0, False)])
def test_only_http_1_1_goes_on_unasked(minor: int, goes_on: bool) -> None:
    assert RequestHead("GET", b"/", RequestOutline((), minor), []).keep_alive is goes_on
    assert ResponseHead(200, b"OK", ResponseOutline((), minor), [], Layout()).keep_alive is goes_on


def test_a_response_without_content_length_is_told_from_an_empty_one() -> None:
    assert ResponseHead(200, b"OK", ResponseOutline((), 1), [], Layout()).length == -1


def test_the_four_framings_differ_and_those_without_a_length_come_last() -> None:
    framings = (Framing.NONE, Framing.LENGTH, Framing.CHUNKED, Framing.CLOSE)
    assert sorted(set(framings)) == list(framings)  # the relay asks `framing >= CHUNKED`


def test_a_field_takes_no_attribute_that_is_not_its_own() -> None:
    field = Field(b"A", b"a", b"1", 0)
    with pytest.raises(AttributeError):
        field.comment = b"x"  # type: ignore[attr-defined]

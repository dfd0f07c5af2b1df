"""What an issuer says, for people: where its metadata is, how two strings differ, and that no form of a secret is shown."""

import base64
from urllib.parse import quote

import pytest

from robin.model.secret import Secret
from robin.wire.issuer_words import difference, masked, masked_refusal, metadata_urls

TOKEN = "eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiJhIn0.c2lnbmF0dXJl/+=x"


@pytest.mark.parametrize(
    ("issuer", "urls"),
    [
        ("https://h/r/", ("https://h/.well-known/oauth-authorization-server/r", "https://h/r/.well-known/openid-configuration")),
        ("http://h:1", ("http://h:1/.well-known/oauth-authorization-server", "http://h:1/.well-known/openid-configuration")),
        ("https://u@h", ()),
        ("api", ()),
        ("https://[", ()),
    ],
)
def test_where_the_metadata_of_an_issuer_may_be(issuer: str, urls: tuple[str, ...]) -> None:
    assert metadata_urls(issuer) == urls


@pytest.mark.parametrize(
    "form",
    [
        TOKEN,
        TOKEN.split(".")[1],
        quote(TOKEN, safe=""),
        TOKEN.encode().hex(),
        *(base64.b64encode(before + TOKEN.split(".", maxsplit=1)[0].encode() + b"!").decode() for before in (b"", b"x", b"xy")),
        base64.urlsafe_b64encode(b"Bearer " + TOKEN.encode()).decode(),
    ],
)
def test_a_secret_is_masked_in_each_usual_form(form: str) -> None:
    text = masked(f"refused: {form} at\n\x1b once", [Secret(TOKEN.encode())])
    assert form not in text
    assert "***" in text
    assert text.startswith("refused: ")
    assert text.endswith(" at \\x1b once")


def test_long_runs_are_masked_although_nothing_is_known_of_them() -> None:
    assert masked_refusal(Secret(b'{"error": "x", "error_description": "key ' + b"a" * 48 + b'"}'), ()) == "x: key ***"
    assert masked_refusal(Secret(b"<html>" + b"word " * 200), ())[:20] == "<html>word word word"


@pytest.mark.parametrize(
    ("first", "second", "words"),
    [
        ("https://h/r", "https://h/r/", "only the second ends in `/`"),
        ("https://h/R", "https://h/r", "they differ in letter case"),
        ("https://h/ra", "https://h/rb", "they differ from character 12 on"),
        ("https://h", "https://h", ""),
    ],
)
def test_how_two_strings_differ(first: str, second: str, words: str) -> None:
    assert difference(first, second) == words

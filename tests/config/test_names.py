"""Names of HTTP and SPIFFE: each is brought into the one form in which it is compared, or refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from robin.config import names
from robin.config.parse import InvalidValue, Kind
from robin.model.message import RequiredField

LONG = "a" * 63


@pytest.mark.parametrize(
    ("text", "hosts"),
    [
        ("localhost,127.0.0.1,[::1]", ("localhost", "127.0.0.1", "[::1]")),
        ("LocalHost", ("localhost",)),
        ("[0:0:0:0:0:0:0:1]", ("[::1]",)),
        ("a_b.example , A_B.example", ("a_b.example",)),
        ("none", ()),
        (f"{LONG}.example", (f"{LONG}.example",)),
    ],
)
def test_allowed_hosts_are_lower_case_and_without_port(text: str, hosts: tuple[str, ...]) -> None:
    assert names.parse_allowed_hosts(text) == hosts


@pytest.mark.parametrize(
    ("text", "what", "fix"),
    [
        ("localhost:4000", '"localhost:4000" has a port', "remove the port: any port is accepted"),
        ("[::1]:4000", '"[::1]:4000" has a port', "remove the port: any port is accepted"),
        ("::1", '"::1" is an IPv6 address without brackets', "write [::1]"),
        ("*.example", '"*.example" has a wildcard', "list each name; ROBIN_UNSAFE_ANY_HOST=true switches the guard off"),
        ("127.1", '"127.1" is not an IPv4 address', "write four decimal numbers such as 127.0.0.1"),
        ("0x7f000001", '"0x7f000001" is not an IPv4 address', "write four decimal numbers such as 127.0.0.1"),
        ("[::1", '"[::1" is not an IPv6 address in brackets', "write it such as [::1], without port and zone"),
        ("[fe80::1%lo]", '"[fe80::1%lo]" is not an IPv6 address in brackets', "write it such as [::1], without port and zone"),
        ("example.", '"example." ends in a dot', "remove the trailing dot"),
        ("exa mple", '"exa mple" is not a host name', "write a DNS name (xn-- for non-ASCII) or an IP address"),
        ("-a", '"-a" is not a host name', "write a DNS name (xn-- for non-ASCII) or an IP address"),
        ("a,,b", "the list has an empty item", "remove the extra comma, or write none for an empty list"),
    ],
)
def test_a_host_that_could_not_match_is_refused(text: str, what: str, fix: str) -> None:
    with pytest.raises(InvalidValue) as caught:
        names.parse_allowed_hosts(text)
    assert (caught.value.what, caught.value.fix) == (what, fix)


@pytest.mark.parametrize("text", ["https://app.example", "http://localhost:3000", "https://[::1]:8443", "chrome-extension://abc"])
def test_origins_are_kept_as_browsers_send_them(text: str) -> None:
    assert names.parse_allowed_origins(text) == (text,)


@pytest.mark.parametrize(
    ("text", "fix"),
    [
        ("HTTPS://App.example", "write https://app.example"),
        ("https://app.example:443", "write https://app.example"),
        ("http://localhost:03000", "write http://localhost:3000"),
        ("https://app.example/", "write scheme://host or scheme://host:port, without path; null and * are never accepted"),
        ("null", "write scheme://host or scheme://host:port, without path; null and * are never accepted"),
        ("*", "write scheme://host or scheme://host:port, without path; null and * are never accepted"),
        ("https://a@b", "write scheme://host or scheme://host:port, without path; null and * are never accepted"),
        ("https://app.example:65536", "use 1 to 65535"),
    ],
)
def test_an_origin_that_no_browser_sends_is_refused(text: str, fix: str) -> None:
    with pytest.raises(InvalidValue) as caught:
        names.parse_allowed_origins(text)
    assert caught.value.fix == fix


def test_strip_list_names_compare_lower_case_and_underscore_as_hyphen() -> None:
    assert names.parse_strip_headers("X_Api_Key, x-api-key,Private-Token") == ("x-api-key", "private-token")
    assert names.parse_strip_headers("none") == ()


@pytest.mark.parametrize("name", ["Host", "content_length", "Transfer-Encoding", "Connection", "authorization", "Via", "Expect"])
def test_fields_that_frame_or_route_cannot_be_stripped_or_required(name: str) -> None:
    for parse in (names.parse_strip_headers, names.parse_required_header):
        with pytest.raises(InvalidValue, match="Robin makes or removes itself"):
            parse(name)


@pytest.mark.parametrize(
    ("text", "header"),
    [
        ("X-Robin", RequiredField(name=b"x-robin", value=None)),
        ("x_robin: yes please", RequiredField(name=b"x-robin", value=b"yes please")),
        ("x-robin:a:b", RequiredField(name=b"x-robin", value=b"a:b")),
    ],
)
def test_a_required_header_is_a_name_with_or_without_a_value(text: str, header: RequiredField) -> None:
    assert names.parse_required_header(text) == header


@pytest.mark.parametrize("text", ["x-robin:", "x-robin: \t", ":value", "x robin", "x-robin:é", "x-robin:a\tb\x1b"])
def test_a_required_header_that_could_never_be_sent_is_refused(text: str) -> None:
    with pytest.raises(InvalidValue):
        names.parse_required_header(text)


def test_upgrade_tokens_are_lower_case_and_h2c_is_refused() -> None:
    assert names.parse_upgrade_protocols("WebSocket,custom/1.0") == ("websocket", "custom/1.0")
    assert names.parse_upgrade_protocols("none") == ()
    for text in ("h2c", "websocket,H2C", "h2c/1"):
        with pytest.raises(InvalidValue, match="is never forwarded"):
            names.parse_upgrade_protocols(text)
    with pytest.raises(InvalidValue, match="not an upgrade token"):
        names.parse_upgrade_protocols("web socket")


@pytest.mark.parametrize("text", ["spiffe://example.org/ns/a/sa/b", "spiffe://td", "spiffe://a_b.c-d/x.y/..."])
def test_spiffe_ids_are_kept(text: str) -> None:
    assert names.parse_spiffe_id(text) == text


@pytest.mark.parametrize(
    "text",
    [
        "example.org/x",
        "https://td/x",
        "spiffe://TD/x",
        "spiffe://td/",
        "spiffe://td//x",
        "spiffe://td/./x",
        "spiffe://td/../x",
        "spiffe://td:1/x",
        "spiffe:///x",
        "spiffe://td/a%20b",
        "spiffe://td/x?q",
        "spiffe://td/" + "a" * 2048,
    ],
)
def test_other_texts_are_no_spiffe_ids(text: str) -> None:
    with pytest.raises(InvalidValue, match="is not a SPIFFE ID"):
        names.parse_spiffe_id(text)


KINDS = [
    names.ALLOWED_HOSTS,
    names.ALLOWED_ORIGINS,
    names.REQUIRED_HEADER,
    names.FIELD_NAMES,
    names.UPGRADE_PROTOCOLS,
    names.SPIFFE_ID,
]


@given(st.one_of(st.text(min_size=1, max_size=60), st.from_regex(r"[a-zA-Z0-9:/.\[\]%*_-]{1,40}", fullmatch=True)), st.sampled_from(KINDS))
def test_any_text_is_a_value_or_a_refusal_of_one_printable_line(text: str, kind: Kind) -> None:
    said = ""
    try:
        kind.parse(text)
    except InvalidValue as error:
        said = f"{error.what}; {error.fix}"
    assert said == "" or said.isprintable()


@given(st.lists(st.from_regex(r"[a-z][a-z0-9]{0,8}(\.[a-z]{2,5})?", fullmatch=True), min_size=1, max_size=5))
def test_what_was_parsed_parses_to_itself(hosts: list[str]) -> None:
    parsed = names.parse_allowed_hosts(",".join(hosts))
    if parsed:
        assert names.parse_allowed_hosts(",".join(parsed)) == parsed

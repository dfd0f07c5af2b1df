"""Places: listen addresses, the Workload API endpoint (the corrected URI is shown), the upstream URL, and whether two meet."""

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from robin.config import addresses
from robin.config.addresses import ADMIN, ENDPOINT, LISTEN, LISTEN_UDS, UPSTREAM
from robin.config.parse import InvalidValue, Kind
from robin.model.address import ActivatedAddress, Address, TcpAddress, UnixAddress
from robin.model.origin import Origin, UpstreamUrl


def tcp(host: str, port: int, *, best_effort: bool = False) -> TcpAddress:
    return TcpAddress(host=host, port=port, best_effort=best_effort)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("127.0.0.1:4000", (tcp("127.0.0.1", 4000),)),
        ("[::1]:4000", (tcp("::1", 4000),)),
        ("[0:0::1]:4000", (tcp("::1", 4000),)),
        ("localhost:4000", (tcp("127.0.0.1", 4000), tcp("::1", 4000, best_effort=True))),
        (":4000", (tcp("", 4000),)),
        ("127.0.0.1:0, 127.0.0.1:0", (tcp("127.0.0.1", 0), tcp("127.0.0.1", 0))),
        ("systemd:robin,127.0.0.1:1", (ActivatedAddress(name="robin"), tcp("127.0.0.1", 1))),
    ],
)
def test_listen_addresses(text: str, expected: tuple[Address, ...]) -> None:
    assert addresses.parse_listen(text) == expected


@pytest.mark.parametrize(
    ("text", "what", "fix"),
    [
        ("4000", '"4000" is a port alone', "write 127.0.0.1:4000"),
        ("127.0.0.1", '"127.0.0.1" has no port', "write 127.0.0.1:4000"),
        ("[::1]", '"[::1]" has no port', "write [::1]:4000"),
        ("::1:4000", '"::1:4000" is an IPv6 address without brackets', "write [address]:port, such as [::1]:4000"),
        ("127.0.0.1:65536", '"65536" is not a port', "use 0 to 65535"),
        ("127.0.0.1:04000", '"04000" is not a port', "use 0 to 65535"),
        ("127.0.0.1:", '"" is not a port', "use 0 to 65535"),
        ("unix:/run/r.sock", '"unix:/run/r.sock" is a Unix socket', "set ROBIN_LISTEN_UDS to the path instead"),
        ("/run/r.sock", '"/run/r.sock" is a path', "set ROBIN_LISTEN_UDS to the path instead"),
        ("none", "the list is empty, so nothing would listen", "name an address such as 127.0.0.1:4000"),
        ("127.0.0.1:1,127.0.0.1:1", "127.0.0.1:1 and 127.0.0.1:1 are the same socket", "keep one of them"),
        (":1,127.0.0.1:1", ":1 and 127.0.0.1:1 are the same socket", "keep one of them"),
        ("0.0.0.0:1,127.0.0.1:1", "0.0.0.0:1 and 127.0.0.1:1 are the same socket", "keep one of them"),
        ("systemd:a b", '"systemd:a b" names no systemd socket', "write systemd:NAME with the FileDescriptorName= of the socket unit"),
    ],
)
def test_a_listen_address_that_cannot_be_bound_is_refused(text: str, what: str, fix: str) -> None:
    with pytest.raises(InvalidValue) as caught:
        addresses.parse_listen(text)
    assert (caught.value.what, caught.value.fix) == (what, fix)


@pytest.mark.parametrize(
    "text", ["example.com:80", "LOCALHOST:80", "[fe80::1%1]:80", "[::ffff:127.0.0.1]:80", "127.1:80", "[127.0.0.1]:80"]
)
def test_only_literal_addresses_are_listened_on(text: str) -> None:
    with pytest.raises(InvalidValue, match="is not an IP address"):
        addresses.parse_listen(text)


def test_admin_addresses_may_be_unix_sockets_or_off() -> None:
    assert addresses.parse_admin("off") == ()
    assert addresses.parse_admin("none") == ()
    assert addresses.parse_admin(":4001") == (tcp("", 4001),)
    assert addresses.parse_admin("unix:/run/a.sock,127.0.0.1:1") == (UnixAddress(path="/run/a.sock"), tcp("127.0.0.1", 1))
    assert addresses.parse_admin("unix:///run/a.sock") == (UnixAddress(path="/run/a.sock"),)


def test_a_socket_path_has_at_most_107_bytes() -> None:
    longest = "/" + "a" * 106
    assert addresses.parse_listen_uds(longest) == UnixAddress(path=longest)
    assert addresses.parse_listen_uds("systemd:robin") == ActivatedAddress(name="robin")
    with pytest.raises(InvalidValue) as caught:
        addresses.parse_listen_uds(longest + "é")
    assert (caught.value.what, caught.value.fix) == ("the path has 109 bytes", "use at most 107")


@pytest.mark.parametrize(
    ("text", "fix"),
    [
        ("@robin", "use a path such as /run/robin/robin.sock"),
        ("robin.sock", "use a path such as /run/robin/robin.sock"),
        ("/run/robin/", "name the socket itself, such as /run/robin/robin.sock"),
        ("unix:///run/r.sock", "write /run/r.sock"),
    ],
)
def test_other_socket_paths_are_refused(text: str, fix: str) -> None:
    with pytest.raises(InvalidValue) as caught:
        addresses.parse_listen_uds(text)
    assert caught.value.fix == fix


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("unix:///run/agent.sock", UnixAddress(path="/run/agent.sock")),
        ("unix:/run/agent.sock", UnixAddress(path="/run/agent.sock")),
        ("tcp://127.0.0.1:8081", tcp("127.0.0.1", 8081)),
        ("tcp://[::1]:8081", tcp("::1", 8081)),
        ("tcp://10.0.0.1:1", tcp("10.0.0.1", 1)),
    ],
)
def test_workload_api_endpoints(text: str, address: Address) -> None:
    assert addresses.parse_endpoint(text) == address


@pytest.mark.parametrize(
    ("text", "fix"),
    [
        ("/run/agent.sock", "write unix:///run/agent.sock"),
        ("unix://run/agent.sock", "write unix:///run/agent.sock"),
        ("unix:run/agent.sock", "write unix:///run/agent.sock"),
        ("unix:", "write unix:///absolute/path or tcp://IP:port"),
        ("tcp:127.0.0.1:8081", "write tcp://127.0.0.1:8081"),
        ("tcp://127.0.0.1:8081/", "write tcp://127.0.0.1:8081"),
        ("tcp://localhost:8081", "write tcp://127.0.0.1:8081"),
        ("tcp://127.0.0.1", "write tcp://127.0.0.1:PORT"),
        ("tcp://agent.example:8081", "write tcp://IP:8081"),
        ("tcp://127.0.0.1:0", "use 1 to 65535"),
        ("http://127.0.0.1:8081", "write unix:///absolute/path or tcp://IP:port"),
        ("unix:///run/a?x", "write unix:///absolute/path or tcp://IP:port"),
        ("/run/" + "a" * 90, "write unix:///run/" + "a" * 90),
        ("eyJhbGciOi.e30.c2ln", "write unix:///absolute/path or tcp://IP:port"),
        ("/eyJhbGciOi.e30.c2ln", "write unix:///absolute/path or tcp://IP:port"),
        ("unix:///run/%41", "write unix:///absolute/path or tcp://IP:port"),
    ],
)
def test_a_malformed_endpoint_is_shown_corrected(text: str, fix: str) -> None:
    with pytest.raises(InvalidValue) as caught:
        addresses.parse_endpoint(text)
    assert caught.value.fix == fix


def url(scheme: str, host: str, port: int, authority: bytes, base: bytes = b"") -> UpstreamUrl:
    return UpstreamUrl(origin=Origin(scheme=scheme, host=host, port=port, authority=authority), base_path=base)


@pytest.mark.parametrize(
    ("text", "upstream"),
    [
        ("https://Broker.Example", url("https", "broker.example", 443, b"broker.example")),
        ("https://broker.example:443/", url("https", "broker.example", 443, b"broker.example")),
        ("HTTPS://broker.example:8443/v1/", url("https", "broker.example", 8443, b"broker.example:8443", b"/v1")),
        ("http://127.0.0.1", url("http", "127.0.0.1", 80, b"127.0.0.1")),
        ("http://[::1]:9", url("http", "::1", 9, b"[::1]:9")),
        ("https://h/a%2Fb/c;d=e", url("https", "h", 443, b"h", b"/a%2Fb/c;d=e")),
    ],
)
def test_upstream_urls(text: str, upstream: UpstreamUrl) -> None:
    assert addresses.parse_upstream(text) == upstream


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("https://user:secret@host", "the URL has a user name or password"),
        ("https://host/?q", "the URL has a query or fragment"),
        ("https://host#f", "the URL has a query or fragment"),
        ("ftp://host", '"ftp://host" is neither https nor http'),
        ("host:8443", '"host:8443" is not a URL'),
        ("https:///x", '"https:///x" is not a URL'),
        ("https://h:0", '"0" is not a port'),
        ("https://h:", '"" is not a port'),
        ("https://0x7f.1", '"0x7f.1" is not an IPv4 address'),
        ("https://2130706433", '"2130706433" is not an IPv4 address'),
        ("https://h.", '"h." ends in a dot'),
        ("https://bücher.example", "a value of 14 characters is not a host name"),
        ("https://h/a/../b", "the base path has a dot segment"),
        ("https://h/a/%2E%2e/b", "the base path has a dot segment"),
        ("https://h/./", "the base path has a dot segment"),
        ("https://h//b", "the base path has an empty segment or an unescaped byte"),
        ("https://h/a b", "the base path has an empty segment or an unescaped byte"),
        ("https://h/%zz", "the base path has an empty segment or an unescaped byte"),
        ("https://h\\@x/", '"h\\" is not a host name'),
    ],
)
def test_a_doubtful_upstream_url_is_refused(text: str, what: str) -> None:
    with pytest.raises(InvalidValue) as caught:
        addresses.parse_upstream(text)
    assert caught.value.what in (what, "the URL has a user name or password")
    assert "secret" not in caught.value.what + caught.value.fix


@pytest.mark.parametrize(
    ("target", "listener", "meet"),
    [
        ("http://127.0.0.1:4000", tcp("127.0.0.1", 4000), True),
        ("http://127.0.0.1:4001", tcp("127.0.0.1", 4000), False),
        ("http://localhost:4000", tcp("127.0.0.1", 4000), True),
        ("http://localhost:4000", tcp("", 4000), True),
        ("http://localhost:4000", tcp("127.0.0.2", 4000), False),
        ("https://localhost:4000", tcp("10.0.0.1", 4000), False),
        ("http://127.0.0.2:4000", tcp("127.0.0.1", 4000), False),
        ("http://127.0.0.2:4001", tcp("", 4001), True),
        ("http://127.0.0.2:4001", tcp("0.0.0.0", 4001), True),
        ("http://[::1]:4001", tcp("0.0.0.0", 4001), False),
        ("http://[::1]:4001", tcp("::", 4001), True),
        ("https://0.0.0.0:4001", tcp("127.0.0.1", 4001), True),
        ("https://[::ffff:127.0.0.1]:4001", tcp("127.0.0.1", 4001), True),
        ("https://broker.example:4001", tcp("", 4001), False),
        ("https://10.0.0.1:4001", tcp("", 4001), False),
        ("https://10.0.0.1:4001", tcp("10.0.0.1", 4001), True),
        ("http://127.0.0.1:4000", UnixAddress(path="/x"), False),
    ],
)
def test_whether_an_upstream_is_one_of_our_listeners(target: str, listener: Address, meet: bool) -> None:
    assert addresses.reaches(addresses.parse_upstream(target).origin, listener) is meet


ADDRESSES = st.builds(
    TcpAddress, host=st.sampled_from(["", "0.0.0.0", "127.0.0.1", "10.0.0.1", "::", "::1"]), port=st.sampled_from([0, 1, 2])
)


@given(ADDRESSES, ADDRESSES)
def test_overlap_is_symmetric_and_needs_the_same_port(one: TcpAddress, other: TcpAddress) -> None:
    assert addresses.overlaps(one, other) == addresses.overlaps(other, one)
    if one.port != other.port or one.port == 0:
        assert not addresses.overlaps(one, other)
    elif one.host == other.host or "" in (one.host, other.host):
        assert addresses.overlaps(one, other)


def test_sockets_overlap_by_path_or_name() -> None:
    assert addresses.overlaps(UnixAddress(path="/a", mode=0o600), UnixAddress(path="/a"))
    assert not addresses.overlaps(UnixAddress(path="/a"), UnixAddress(path="/b"))
    assert addresses.overlaps(ActivatedAddress(name="a"), ActivatedAddress(name="a"))
    assert not addresses.overlaps(ActivatedAddress(name="a"), tcp("", 1))


@given(st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6)), st.integers(0, 65535))
def test_what_an_address_says_of_itself_parses_back(ip: ipaddress.IPv4Address | ipaddress.IPv6Address, port: int) -> None:
    address = tcp(str(ip), port)
    if isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped is not None:
        return
    assert addresses.parse_listen(str(address)) == (address,)


PLACE_TEXT = st.one_of(st.text(min_size=1, max_size=60), st.from_regex(r"[a-z0-9:/.\[\]%@#?-]{1,40}", fullmatch=True))


@given(PLACE_TEXT, st.sampled_from([UPSTREAM, LISTEN, LISTEN_UDS, ADMIN, ENDPOINT]))
def test_any_text_is_a_value_or_a_refusal_of_one_printable_line(text: str, kind: Kind) -> None:
    said = ""
    try:
        kind.parse(text)
    except InvalidValue as error:
        said = f"{error.what}; {error.fix}"
    assert said == "" or said.isprintable()

"""The address guard: every row of the table of gateway.md 7, and what settings and rules can and cannot lift."""

from ipaddress import ip_address

import pytest

from robin.model.address import ResolvedAddress
from robin.model.caller import Caller, Evidence
from robin.model.faults import Fault
from robin.model.origin import Origin
from robin.model.route import Endpoint, HeaderRules, Route
from robin.model.verdict import Permit
from robin.policy.address_guard import AddressGuard, classify, is_nat64_prefix, is_private_network

CLASSES = """
public      8.8.8.8 1.1.1.1 100.63.255.255 172.32.0.1 192.0.3.1 198.20.0.1 223.255.255.255 2606:4700::1111 2a00::1
private     10.0.0.0 10.255.255.255 172.16.0.1 172.31.255.255 192.168.0.1 fc00::1 fdff::1
cgnat       100.64.0.1 100.127.255.255
loopback    127.0.0.1 127.255.255.255 ::1
unspecified 0.0.0.0 0.1.2.3 ::
link_local  169.254.0.1 169.254.169.253 fe80::1 febf::1 fec0::1
metadata    169.254.169.254 169.254.170.2 169.254.170.23 168.63.129.16 100.100.100.200 192.0.0.192 fd00:ec2::254 fd00:ec2::23 fd20:ce::254
multicast   224.0.0.1 239.255.255.255 ff02::1
reserved    240.0.0.1 255.255.255.255 192.0.0.1 192.0.2.1 192.88.99.1 198.18.0.1 198.19.255.255 198.51.100.1 203.0.113.1
reserved    100::1 2001::1:0:0:1 2001:1ff::1 2001:db8::1 3fff::1 3fff:fff::1 5f00::1 4000::1 1::1 8000::1
embedded    ::ffff:8.8.8.8 ::ffff:127.0.0.1 ::8.8.8.8 64:ff9b::7f00:1 64:ff9b::808:808 64:ff9b:1::1 2002:7f00:1:: 2001:0:1::1
embedded    2606::5efe:1.2.3.4 2606::200:5efe:1.2.3.4
"""
ROWS = [(name, text) for name, *texts in map(str.split, CLASSES.strip().splitlines()) for text in texts]
NEVER = [text for name, text in ROWS if name not in {"public", "private", "cgnat"} and not text.startswith("2001::1:")]


@pytest.mark.parametrize(("name", "text"), [row for row in ROWS if row[1] != "2001::1:0:0:1"])
def test_each_address_has_the_class_of_the_table(name: str, text: str) -> None:
    assert classify(ip_address(text)) == name


def permit(*private: str) -> Permit:
    origin = Origin(scheme="https", host="a.example", port=443, authority=b"a.example")
    return Permit(
        route=Route(name="r", header_rules=HeaderRules(via=b"")),
        endpoint=Endpoint(origin=origin, private=private),
        target=None,
        caller=Caller(evidence=Evidence.LOOPBACK, listener="test"),
    )


def judge(guard: AddressGuard, *hosts: str, private: tuple[str, ...] = (), port: int = 443) -> list[str]:
    """The permitted hosts, or the class for which all were refused."""
    try:
        return [one.host for one in guard.judge(permit(*private), [ResolvedAddress(host=host, port=port) for host in hosts])]
    except Fault as fault:
        return [f"{fault.code.removeprefix('address_')} {fault.detail.partition(':')[0]}"]


@pytest.mark.parametrize("text", NEVER)
def test_no_rule_lifts_a_class_that_is_never_reachable(text: str) -> None:
    everything = ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "fc00::/7")
    assert judge(AddressGuard(), text, private=everything) == [f"refused {classify(ip_address(text))}"]


def test_of_a_mixed_answer_only_what_is_permitted_is_kept() -> None:
    assert judge(AddressGuard(), "127.0.0.1", "8.8.8.8", "10.0.0.1", "2606:4700::1111") == ["8.8.8.8", "2606:4700::1111"]


def test_a_rule_opens_the_private_network_that_it_names_and_no_other() -> None:  # E22
    assert judge(AddressGuard(), "10.1.2.3", private=("10.1.0.0/16",)) == ["10.1.2.3"]
    assert judge(AddressGuard(), "10.2.0.1", private=("10.1.0.0/16",)) == ["refused private"]
    assert judge(AddressGuard(), "100.100.100.200", private=("100.64.0.0/10",)) == ["refused metadata"]
    assert judge(AddressGuard(), "fd00:ec2::254", private=("fc00::/7",)) == ["refused metadata"]


def test_denied_networks_are_refused_whatever_a_rule_says() -> None:
    guard = AddressGuard(deny=("8.8.0.0/16", "10.1.0.0/16"))
    assert judge(guard, "8.8.8.8") == ["refused denied"]
    assert judge(guard, "10.1.2.3", private=("10.0.0.0/8",)) == ["refused denied"]


def test_a_nat64_prefix_reaches_public_addresses_inside_it_and_nothing_else() -> None:  # E23
    guard = AddressGuard(nat64_prefixes=("64:ff9b::/96", "2001:67c:2b0:db32::/64"), deny=("9.9.9.0/24",))
    assert judge(guard, "64:ff9b::808:808") == ["64:ff9b::808:808"]
    assert judge(guard, "64:ff9b::a00:1") == ["refused embedded"]
    assert judge(guard, "64:ff9b::7f00:1") == ["refused embedded"]
    assert judge(guard, "64:ff9b::909:909") == ["refused embedded"]
    assert judge(guard, "2001:67c:2b0:db32:8:808:800:0") == ["2001:67c:2b0:db32:8:808:800:0"]
    assert judge(guard, "2001:67c:2b0:db32:7f:0:100:0") == ["refused embedded"]
    assert judge(AddressGuard(), "64:ff9b::808:808") == ["refused embedded"]


def test_one_loopback_place_can_be_reached_for_development_and_only_that_port() -> None:
    guard = AddressGuard(unsafe_loopback=frozenset({("127.0.0.1", 9000)}))
    assert judge(guard, "127.0.0.1", port=9000) == ["127.0.0.1"]
    assert judge(guard, "127.0.0.1", port=9001) == ["refused loopback"]
    assert judge(guard, "127.0.0.2", port=9000) == ["refused loopback"]
    assert judge(guard, "::ffff:127.0.0.1", port=9000) == ["refused embedded"]


def test_our_own_listeners_host_and_names_are_never_reached() -> None:  # E20
    guard = AddressGuard(unsafe_loopback=frozenset({("127.0.0.1", 9000)}))
    for address in (
        ResolvedAddress(host="203.0.114.9", port=443, own_host=True),
        ResolvedAddress(host="203.0.114.9", port=443, own_listener=True),
        ResolvedAddress(host="127.0.0.1", port=9000, own_listener=True),
    ):
        with pytest.raises(Fault, match="address_refused"):
            guard.judge(permit(), [address])
    guard.learn_self(frozenset({ip_address("203.0.114.7")}))
    assert judge(guard, "203.0.114.7") == ["refused self"]


def test_networks_of_the_settings_are_judged() -> None:
    assert is_private_network("10.1.0.0/16")
    assert is_private_network("fd12::/16")
    assert not is_private_network("127.0.0.0/8")
    assert not is_private_network("0.0.0.0/0")
    assert not is_private_network("8.0.0.0/7")
    assert is_nat64_prefix("64:ff9b::/96")
    assert not is_nat64_prefix("64:ff9b::/80")

"""Addresses are written as the settings write them."""

import ipaddress

import pytest

from robin.model.address import ActivatedAddress, Address, TcpAddress, UnixAddress, is_loopback, literal, reached


@pytest.mark.parametrize(
    ("address", "written"),
    [
        (TcpAddress(host="127.0.0.1", port=4000), "127.0.0.1:4000"),
        (TcpAddress(host="::1", port=4000), "[::1]:4000"),
        (TcpAddress(host="", port=4001), ":4001"),
        (UnixAddress(path="/run/robin/robin.sock"), "unix:/run/robin/robin.sock"),
        (ActivatedAddress(name="proxy"), "systemd:proxy"),
    ],
)
def test_an_address_is_written_as_in_the_settings(address: Address, written: str) -> None:
    assert str(address) == written


def test_an_address_is_required_unless_it_says_that_it_is_best_effort() -> None:
    assert TcpAddress(host="::1", port=1).best_effort is False


def test_addresses_that_say_the_same_are_equal_and_can_be_keys() -> None:
    assert len({TcpAddress(host="::1", port=1), TcpAddress(host="::1", port=1), TcpAddress(host="::1", port=2)}) == 2


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("127.0.0.1", True),
        ("127.255.255.254", True),
        ("::1", True),
        ("0:0::1", True),
        ("::1%lo", True),
        ("::ffff:127.0.0.1", True),  # the kernel dials and tells IPv4 loopback by this name
        ("::ffff:7f00:1", True),
        ("::ffff:127.9.9.9", True),
        ("10.0.0.1", False),
        ("128.0.0.1", False),
        ("0.0.0.0", False),
        ("::", False),
        ("::ffff:10.0.0.1", False),
        ("::ffff:0.0.0.0", False),
        ("::127.0.0.1", False),  # IPv4-compatible: an ordinary IPv6 address to the kernel
        ("64:ff9b::7f00:1", False),  # by a translator, which is elsewhere
        ("2002:7f00:1::", False),
        ("fe80::1%lo", False),
        ("localhost", False),  # a name says where it leads only when it is asked
        ("127.1", False),
        ("0x7f.0.0.1", False),
        ("127.0.0.1.", False),
        ("", False),
    ],
)
def test_which_hosts_are_loopback(host: str, loopback: bool) -> None:
    assert is_loopback(host) is loopback


def test_ipv4_within_ipv6_is_the_ipv4_address_that_is_meant() -> None:
    assert literal("::ffff:192.0.2.1") == ipaddress.IPv4Address("192.0.2.1")
    assert literal("fe80::1%eth0") == ipaddress.IPv6Address("fe80::1")
    with pytest.raises(ValueError):
        literal("localhost")


@pytest.mark.parametrize(
    ("host", "there"), [("0.0.0.0", "127.0.0.1"), ("::", "::1"), ("::ffff:0.0.0.0", "127.0.0.1"), ("192.0.2.1", "192.0.2.1")]
)
def test_dialling_nobodys_address_reaches_this_machine(host: str, there: str) -> None:
    assert str(reached(host)) == there

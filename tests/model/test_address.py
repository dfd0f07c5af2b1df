"""Addresses are written as the settings write them."""

import pytest

from robin.model.address import ActivatedAddress, Address, TcpAddress, UnixAddress


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

"""Passed sockets against the listeners: what is missing, unclaimed or of the wrong kind is refused with its fix."""

import socket
from collections.abc import Iterator

import pytest
from tests.journeys.life import short_folder

from robin.app.activation import check_activation
from robin.app.plane import Listener
from robin.model.address import ActivatedAddress, Address, TcpAddress
from robin.planes.sidecar.listener import ACTIVATION_FIXES, LISTENER_SETTINGS, listener_rule

TCP = TcpAddress(host="127.0.0.1", port=4000)


@pytest.fixture(scope="module")
def sockets() -> Iterator[dict[str, socket.socket]]:
    with short_folder() as folder, socket.socket(socket.AF_UNIX) as unix:
        unix.bind(f"{folder}/s")
        with (
            socket.create_server(("127.0.0.1", 0)) as v4,
            socket.create_server(("::1", 0), family=socket.AF_INET6) as v6,
            socket.create_server(("", 0)) as every,
            socket.create_server(("::", 0), family=socket.AF_INET6) as every6,
            socket.socket(socket.AF_INET6) as mapped,
        ):
            mapped.bind(("::ffff:127.0.0.1", 0))
            mapped.listen()
            yield {"mapped": mapped, "unix": unix, "v4": v4, "v6": v6, "every": every, "every6": every6}


def judge(
    sockets: dict[str, socket.socket],
    passed: dict[str, list[str]],
    *,
    listen: tuple[Address, ...] = (TCP,),
    admin: tuple[Address, ...] = (),
    unix: bool = False,
    unsafe_listen: bool = False,
) -> str:
    """What is wrong; empty for nothing."""
    found = {name: [sockets[kind] for kind in kinds] for name, kinds in passed.items()}
    listener = Listener(
        setting=LISTENER_SETTINGS[unix],
        addresses=listen,
        rule=listener_rule(unix=unix, allow_uids=None, unsafe_listen=unsafe_listen),
        take=lambda _rule, _sock, _bound: None,
        fixes=ACTIVATION_FIXES[unix],
    )
    try:
        check_activation(found, [listener], admin)
    except ValueError as error:
        return str(error)
    return ""


WEB = (ActivatedAddress(name="web"),)


def test_nothing_passed_and_nothing_asked_for_is_fine(sockets):
    assert judge(sockets, {}) == ""


@pytest.mark.parametrize("kinds", [["v4"], ["v6"], ["v4", "v6"], ["mapped"]])
def test_loopback_sockets_are_taken(sockets, kinds: list[str]):
    assert judge(sockets, {"web": kinds}, listen=WEB) == ""


def test_a_missing_name_is_refused_with_the_setting_of_the_unit(sockets):
    assert judge(sockets, {}, listen=WEB) == "systemd:web was not passed; add FileDescriptorName=web to the socket unit"
    assert "systemd:adm was not passed" in judge(sockets, {"web": ["v4"]}, listen=WEB, admin=(ActivatedAddress(name="adm"),))


def test_an_unclaimed_socket_is_refused(sockets):
    assert judge(sockets, {"web": ["v4"], "more": ["v4"]}, listen=WEB).startswith("the passed socket more is not claimed; ")


@pytest.mark.parametrize("kinds", [["unix"], ["v4", "unix"]])
def test_a_unix_socket_is_no_tcp_listener(sockets, kinds: list[str]):
    assert judge(sockets, {"web": kinds}, listen=WEB).endswith("systemd:web is a Unix socket; set ROBIN_LISTEN_UDS=systemd:web instead")


@pytest.mark.parametrize("kinds", [["v4"], ["unix", "v4"], ["every"]])
def test_a_tcp_socket_cannot_take_the_place_of_a_unix_socket(sockets, kinds: list[str]):
    assert "no caller's UID is known" in judge(sockets, {"web": kinds}, listen=WEB, unix=True, unsafe_listen=True)
    assert judge(sockets, {"web": ["unix"]}, listen=WEB, unix=True) == ""


@pytest.mark.parametrize("kind", ["every", "every6"])
def test_beyond_loopback_only_with_the_switch(sockets, kind: str):
    assert "which is not loopback" in judge(sockets, {"web": [kind]}, listen=WEB)
    assert judge(sockets, {"web": [kind]}, listen=WEB, unsafe_listen=True) == ""


def test_the_admin_listener_may_be_anywhere(sockets):
    for kind in sockets:
        assert judge(sockets, {"adm": [kind]}, admin=(ActivatedAddress(name="adm"),)) == ""

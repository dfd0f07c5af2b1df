"""Permits for calls of our own: how the place is written in Host, and that https is never without a TLS profile."""

import pytest

from robin.model.route import TlsProfile
from robin.policy.control import permit_control


@pytest.mark.parametrize(
    ("scheme", "host", "port", "authority", "dialled"),
    [
        ("https", "issuer.example", None, b"issuer.example", 443),
        ("https", "issuer.example", 443, b"issuer.example", 443),
        ("https", "issuer.example", 8443, b"issuer.example:8443", 8443),
        ("http", "127.0.0.1", 80, b"127.0.0.1", 80),
        ("http", "::1", 8080, b"[::1]:8080", 8080),
    ],
)
def test_the_place_of_a_call(scheme: str, host: str, port: int | None, authority: bytes, dialled: int):
    endpoint = permit_control(scheme=scheme, host=host, port=port).endpoint
    assert (endpoint.origin.host, endpoint.origin.port, endpoint.origin.authority) == (host, dialled, authority)
    assert endpoint.tls == (TlsProfile() if scheme == "https" else None)


def test_equal_calls_share_their_pooled_connections_and_others_do_not():
    own = TlsProfile(ca_file="/etc/robin/ca.pem")
    assert (
        permit_control(scheme="https", host="a", tls=own).endpoint == permit_control(scheme="https", host="a", port=443, tls=own).endpoint
    )
    assert permit_control(scheme="https", host="a", tls=own).endpoint != permit_control(scheme="https", host="a").endpoint

"""Which addresses of an issuer are dialled: what its name leads to is judged, not what it is called."""

import pytest

from robin.model.address import ResolvedAddress
from robin.model.faults import Fault
from robin.policy.control import permit_control
from robin.policy.issuers import is_no_issuer, issuer_judge

JUDGE = issuer_judge(["2606:db32::/96"])


@pytest.mark.parametrize(
    ("host", "address", "dialled"),
    [
        ("idp.test", "8.8.8.8", True),
        ("idp.test", "10.0.0.7", True),
        ("idp.test", "fd00::7", True),
        ("idp.test", "64:ff9b::808:808", True),
        ("idp.test", "2606:db32::a00:7", True),
        ("idp.test", "127.0.0.1", False),
        ("idp.test", "169.254.169.254", False),
        ("idp.test", "::ffff:169.254.169.254", False),
        ("idp.test", "64:ff9b::a9fe:a9fe", False),
        ("idp.test", "2606:db32::a9fe:a9fe", False),
        ("idp.test", "2606:db32::7f00:1", False),
        ("idp.test", "2002:7f00:1::", False),
        ("idp.test", "fd00:ec2::254", False),
        ("idp.test", "0.0.0.0", False),
        ("localhost", "127.0.0.1", True),
        ("localhost", "10.0.0.7", False),
        ("127.0.0.1", "127.0.0.1", True),
    ],
)
def test_an_issuer_is_dialled_at_no_address_that_only_a_mistake_or_an_attack_leads_to(host: str, address: str, dialled: bool) -> None:
    permit, found = permit_control(scheme="https", host=host), [ResolvedAddress(host=address, port=443)]
    if dialled:
        assert list(JUDGE(permit, found)) == found
    else:
        with pytest.raises(Fault, match="unroutable"):
            JUDGE(permit, found)


def test_our_own_listener_is_no_issuer_and_an_address_that_is_never_dialled_is_refused_in_the_file() -> None:
    with pytest.raises(Fault, match="loop"):
        JUDGE(permit_control(scheme="http", host="localhost"), [ResolvedAddress(host="127.0.0.1", port=80, own_listener=True)])
    assert [is_no_issuer(host) for host in ("169.254.169.254", "64:ff9b::a9fe:a9fe", "10.0.0.7", "127.0.0.1", "idp.test")] == [
        True,
        True,
        False,
        False,
        False,
    ]

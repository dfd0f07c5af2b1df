"""The test CA: a real TLS client accepts what should be good and names what is wrong with the rest."""

import asyncio
import ssl

import pytest

from robin.testing.certificates import CertificateAuthority, Leaf
from robin.testing.manual_clock import ManualClock
from robin.testing.recording_upstream import RecordingUpstream


async def handshake(leaf: Leaf, client: ssl.SSLContext, name: str) -> str | None:
    """The TLS version agreed between a server with this leaf and this client."""
    async with RecordingUpstream(tls=leaf.server_context()) as upstream:
        _, writer = await asyncio.open_connection("127.0.0.1", upstream.port, ssl=client, server_hostname=name)
        version: str | None = writer.get_extra_info("ssl_object").version()
        writer.close()
        await writer.wait_closed()
    return version


@pytest.mark.parametrize("name", ["broker.test", "127.0.0.1", "::1"])
async def test_a_leaf_is_good_for_each_of_its_names(certificates: CertificateAuthority, name: str):
    leaf = certificates.issue("broker.test", "127.0.0.1", "::1")
    assert await handshake(leaf, certificates.client_context(), name) == "TLSv1.3"


@pytest.mark.parametrize(
    ("names", "window", "word"),
    [
        (("other.test",), (-60, 60), "Hostname mismatch"),
        (("broker.test",), (-60, -1), "certificate has expired"),
        (("broker.test",), (60, 120), "not yet valid"),
    ],
)
async def test_a_bad_leaf_is_refused_for_its_own_reason(certificates, names, window, word):
    leaf = certificates.issue(*names, starts_in_s=window[0], ends_in_s=window[1])
    with pytest.raises(ssl.SSLCertVerificationError, match=word):
        await handshake(leaf, certificates.client_context(), "broker.test")


async def test_another_authority_is_not_trusted(certificates, tmp_path):
    stranger = CertificateAuthority(tmp_path / "stranger", name="A stranger")
    with pytest.raises(ssl.SSLCertVerificationError, match="unable to get local issuer"):
        await handshake(stranger.issue("broker.test"), certificates.client_context(), "broker.test")


async def test_an_old_server_offers_nothing_above_tls_1_1(certificates):
    leaf = certificates.issue("broker.test")
    old = leaf.server_context(minimum=ssl.TLSVersion.TLSv1_1, maximum=ssl.TLSVersion.TLSv1_1)
    client = certificates.client_context()
    client.set_ciphers("DEFAULT:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        client.minimum_version = ssl.TLSVersion.TLSv1_1
    async with RecordingUpstream(tls=old) as upstream:
        _, writer = await asyncio.open_connection("127.0.0.1", upstream.port, ssl=client, server_hostname="broker.test")
        assert writer.get_extra_info("ssl_object").version() == "TLSv1.1"
        writer.close()
        await writer.wait_closed()


def test_validity_counts_from_the_clock_that_was_given(tmp_path):
    clock = ManualClock(wall=1_900_000_000.0)
    authority = CertificateAuthority(tmp_path, clock=clock)
    assert authority.certificate.not_valid_before_utc.timestamp() == 1_900_000_000 - 86400


def test_the_key_on_disk_is_for_its_owner_only(certificates):
    assert certificates.issue("broker.test").key_file.stat().st_mode & 0o777 == 0o600


def test_a_leaf_needs_a_name(certificates):
    with pytest.raises(ValueError, match="at least one"):
        certificates.issue()

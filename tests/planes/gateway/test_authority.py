"""Leaves of the bridge: what is in them, how long they live, and that one host costs one signature (gateway.md 5)."""

import datetime
import shutil
import ssl
import subprocess
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID

from robin.model.faults import Fault
from robin.planes.gateway.authority import BridgeAuthority, CaInvalid, load_ca, mint_leaf
from robin.planes.gateway.new_authority import make_authority
from robin.planes.gateway.rejections import Rejections
from robin.testing.manual_clock import ManualClock
from robin.transport.clock import SystemClock


def slot(folder: Path, *, days: int = 30, permit_dns: tuple[str, ...] = ()) -> str:
    folder.mkdir()
    now = datetime.datetime.fromtimestamp(SystemClock().wall(), datetime.UTC)
    certificate, key = make_authority("robin-bridge-ca-test", days=days, permit_dns=permit_dns, now=now)
    (folder / "tls.crt").write_bytes(certificate)
    (folder / "tls.key").write_bytes(key)
    return str(folder)


@pytest.mark.parametrize("host", ["a.test", "10.1.2.3", "2001:db8::1", "a" * 60 + "." + "b" * 20 + ".test"])
def test_a_leaf_is_for_one_host_and_openssl_accepts_it(tmp_path: Path, host: str) -> None:  # E31
    ca = load_ca(slot(tmp_path / "ca"))
    pem, _ = mint_leaf(ca, host, now=SystemClock().wall(), ttl_s=86400)
    leaf = x509.load_pem_x509_certificate(pem)
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    assert [str(name.value) for name in names.value] == [host]
    assert names.critical == (len(host) > 64)
    assert {type(name) for name in names.value} == {x509.IPAddress if ":" in host or host[-1].isdigit() else x509.DNSName}
    assert [name.value for name in leaf.subject] == ([host] if len(host) <= 64 else [])
    assert leaf.not_valid_after_utc - leaf.not_valid_before_utc == datetime.timedelta(hours=24, minutes=5)
    key, found = leaf.public_key(), {type(one.value): one for one in leaf.extensions}
    assert isinstance(key, ec.EllipticCurvePublicKey)
    assert key.curve.name == "secp256r1"
    assert found[x509.BasicConstraints].value == x509.BasicConstraints(ca=False, path_length=None)
    assert [name for name, is_set in vars(found[x509.KeyUsage].value).items() if is_set] == ["_digital_signature"]
    assert list(found[x509.ExtendedKeyUsage].value) == [ExtendedKeyUsageOID.SERVER_AUTH]
    assert found[x509.SubjectKeyIdentifier].value == x509.SubjectKeyIdentifier.from_public_key(key)
    above = ca.certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    assert found[x509.AuthorityKeyIdentifier].value == x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(above)
    other, _ = mint_leaf(ca, host, now=SystemClock().wall(), ttl_s=86400)
    serials = {leaf.serial_number, x509.load_pem_x509_certificate(other).serial_number}
    assert (len(serials), max(serials) < 1 << 127, min(serials) > 1 << 64) == (2, True, True)
    late = x509.load_pem_x509_certificate(mint_leaf(ca, host, now=ca.not_after - 60, ttl_s=86400)[0])
    assert late.not_valid_after_utc == ca.certificate.not_valid_after_utc
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("needs openssl")
    (tmp_path / "leaf.pem").write_bytes(pem)
    arguments = [openssl, "verify", "-x509_strict", "-purpose", "sslserver", "-CAfile", str(tmp_path / "ca" / "tls.crt")]
    done = subprocess.run([*arguments, str(tmp_path / "leaf.pem")], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("host", ["a.test", "10.1.2.3", "2001:db8::1", "a" * 60 + "." + "b" * 20 + ".test"])
def test_a_strict_client_accepts_a_leaf(tmp_path: Path, host: str) -> None:  # E31: what Python 3.13 does by default
    folder = slot(tmp_path / "ca")
    authority = BridgeAuthority(folder, ttl_s=86400, contexts=4, per_second=1000, wall=SystemClock().wall)
    client = ssl.create_default_context(cafile=f"{folder}/tls.crt")
    client.verify_flags |= ssl.VERIFY_X509_STRICT | ssl.VERIFY_X509_PARTIAL_CHAIN
    ends = [(ssl.MemoryBIO(), ssl.MemoryBIO()) for _ in range(2)]
    shown = authority.context(host).wrap_bio(*ends[0], server_side=True)
    seen = client.wrap_bio(*ends[1], server_hostname=host)
    done = 0
    while done < 2:
        done = 0
        for tls, (_, outgoing), (incoming, _) in ((seen, ends[1], ends[0]), (shown, ends[0], ends[1])):
            try:
                tls.do_handshake()
                done += 1
            except ssl.SSLWantReadError:
                pass
            incoming.write(outgoing.read())
    assert seen.version() == "TLSv1.3"


def test_the_cache_of_leaves_is_bounded_and_the_ones_used_last_are_in_it(tmp_path: Path) -> None:  # E32
    authority = BridgeAuthority(slot(tmp_path / "ca"), ttl_s=86400, contexts=1024, per_second=1_000_000, wall=SystemClock().wall)
    for index in range(2000):
        authority.context(f"h{index}.test")
    for index in range(2000 - 1024, 2000):
        authority.context(f"h{index}.test")
    assert (authority.mints, authority.hits) == (2000, 1024)
    authority.context("h0.test")
    assert authority.mints == 2001


def test_no_more_is_signed_in_a_second_than_the_limit_allows_and_for_one_caller_half_of_it(tmp_path: Path) -> None:
    clock = ManualClock(wall=SystemClock().wall())
    authority = BridgeAuthority(slot(tmp_path / "ca"), ttl_s=86400, contexts=16, per_second=4, wall=clock.wall)
    for index, caller in enumerate(["one", "one", "other", "third"]):
        authority.context(f"h{index}.test", caller)
        if index == 1:
            with pytest.raises(Fault, match="limit_mints"):
                authority.context("h9.test", "one")
    with pytest.raises(Fault, match="limit_mints"):
        authority.context("h4.test", "fourth")
    authority.context("h0.test", "one")  # what is there costs nothing
    clock.advance(1)
    authority.context("h4.test", "one")


def test_one_host_is_signed_once_and_hosts_that_were_not_used_are_forgotten(tmp_path: Path) -> None:  # E32
    clock = ManualClock(wall=SystemClock().wall())
    authority = BridgeAuthority(slot(tmp_path / "ca"), ttl_s=86400, contexts=4, per_second=1000, wall=clock.wall)
    first = authority.context("a.test")
    assert all(authority.context("a.test") is first for _ in range(100))
    assert (authority.mints, authority.hits) == (1, 100)
    for index in range(8):
        authority.context(f"h{index}.test")
    assert authority.context("a.test") is not first
    latest = authority.context("h7.test")
    clock.advance(25 * 3600)
    assert authority.context("h7.test") is not latest


def test_no_leaf_is_signed_outside_of_the_life_and_the_names_of_the_ca(tmp_path: Path) -> None:
    clock = ManualClock(wall=SystemClock().wall())
    folder = slot(tmp_path / "ca", days=1, permit_dns=("test",))
    authority = BridgeAuthority(folder, ttl_s=86400, contexts=4, per_second=1000, wall=clock.wall)
    authority.check("a.test")
    with pytest.raises(Fault, match="bridge_unavailable"):
        authority.check("a.example")
    clock.advance(2 * 86400)
    with pytest.raises(Fault, match="bridge_unavailable"):
        authority.context("a.test")


def test_a_pair_that_does_not_match_is_no_ca(tmp_path: Path) -> None:
    one, other = slot(tmp_path / "one"), slot(tmp_path / "other")
    shutil.copy(f"{other}/tls.key", f"{one}/tls.key")
    with pytest.raises(CaInvalid):
        load_ca(one)


class Lines:
    """Keeps the events that are written."""

    def __init__(self) -> None:
        self.seen: list[tuple[object, object]] = []

    def warning(self, _event: str, **fields: object) -> None:
        self.seen.append((fields["caller"], fields["count"]))


def test_rejections_of_one_caller_are_one_line_a_second_with_their_count() -> None:  # E28
    clock, lines = ManualClock(), Lines()
    rejections = Rejections(lines, clock.monotonic)  # type: ignore[arg-type]
    for _ in range(100):
        rejections.note("local", "unknown_ca", "00")
    rejections.note("unix:7", "unknown_ca", "00")
    clock.advance(1.0)
    rejections.note("local", "unknown_ca", "00")
    assert lines.seen == [("local", 1), ("unix:7", 1), ("local", 100)]

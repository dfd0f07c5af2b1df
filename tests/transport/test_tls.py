"""Roots and versions towards the upstream: what is loaded, what is refused, when it is read again, and why a handshake failed."""

import contextlib
import os
import ssl
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from tests.descriptors import no_descriptor_left

from robin.model.faults import Fault
from robin.model.route import TlsProfile
from robin.testing.certificates import CertificateAuthority
from robin.transport.tls import TlsClient, TlsFileError, UpstreamTls, client_context, tls_fault


def roots(path: Path) -> TlsProfile:
    return TlsProfile(ca_file=str(path))


def test_a_context_verifies_chain_and_name_and_begins_at_tls_1_2(certificates: CertificateAuthority):
    context = client_context(roots(certificates.ca_file))
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.check_hostname
    assert context.minimum_version is ssl.TLSVersion.TLSv1_2
    assert context.options & ssl.OP_NO_RENEGOTIATION


def test_a_file_replaces_the_system_roots(certificates: CertificateAuthority, tmp_path: Path):
    other = CertificateAuthority(tmp_path, name="other")
    both = tmp_path / "both.pem"
    both.write_bytes(certificates.ca_pem + "\n# Főtanúsítvány, a comment between\n".encode() + other.ca_pem)
    assert len(client_context(roots(certificates.ca_file)).get_ca_certs()) == 1
    assert len(client_context(roots(both)).get_ca_certs()) == 2


@pytest.mark.parametrize(
    "content",
    [b"", b"\n", b"nonsense", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", b"\xff\xfe", bytes(8 * 1024 * 1024 + 1)],
    ids=["empty", "blank", "nonsense", "no certificate inside", "binary", "too large"],
)
def test_what_is_no_bundle_is_refused(tmp_path: Path, content: bytes):
    path = tmp_path / "ca.pem"
    path.write_bytes(content)
    with pytest.raises(TlsFileError):
        client_context(roots(path))


def test_a_fifo_is_no_bundle_and_hangs_nobody(tmp_path: Path):
    path = tmp_path / "ca.pem"
    os.mkfifo(path)
    with pytest.raises(TlsFileError, match="regular file"):
        client_context(roots(path))


def test_a_private_key_alone_is_no_bundle(certificates: CertificateAuthority):
    with pytest.raises(TlsFileError):
        client_context(roots(certificates.issue("x.test").key_file))


class Reloads:
    """A TlsClient on a file of its own, and what it reported of each reload."""

    def __init__(self, folder: Path, content: bytes) -> None:
        self.path = folder / "ca.pem"
        self.path.write_bytes(content)
        self.said: list[str] = []
        self.tls = TlsClient(roots(self.path), lambda _, result: self.said.append(result))

    def write(self, content: bytes) -> None:
        """As an updater does: beside it, then over it."""
        beside = self.path.with_suffix(".new")
        beside.write_bytes(content)
        os.replace(beside, self.path)


def test_an_unchanged_file_is_not_read_again(certificates: CertificateAuthority, tmp_path: Path):
    reloads = Reloads(tmp_path, certificates.ca_pem)
    context = reloads.tls.context
    for _ in range(3):
        reloads.tls.refresh()
    assert (reloads.tls.context, reloads.tls.generation, reloads.said) == (context, 0, [])


def test_a_changed_file_is_a_new_generation(certificates: CertificateAuthority, tmp_path: Path):
    reloads = Reloads(tmp_path, certificates.ca_pem)
    other = CertificateAuthority(tmp_path / "other", name="other")
    context = reloads.tls.context
    reloads.write(other.ca_pem)
    reloads.tls.refresh()
    reloads.tls.refresh()
    assert (reloads.tls.generation, reloads.said) == (1, ["loaded"])
    assert reloads.tls.context is not context
    assert [dict(part[0] for part in ca["subject"])["commonName"] for ca in reloads.tls.context.get_ca_certs()] == ["other"]


def test_a_broken_file_keeps_the_roots_and_is_told_once_a_change(certificates: CertificateAuthority, tmp_path: Path):
    reloads = Reloads(tmp_path, certificates.ca_pem)
    context = reloads.tls.context
    reloads.write(b"broken")
    for _ in range(3):
        reloads.tls.refresh()
    reloads.path.unlink()
    for _ in range(3):
        reloads.tls.refresh()
    assert (reloads.tls.context, reloads.tls.generation, reloads.said) == (context, 0, ["failed", "failed"])
    reloads.write(certificates.ca_pem)
    reloads.tls.refresh()
    assert (reloads.tls.generation, reloads.said) == (1, ["failed", "failed", "loaded"])


def test_a_forced_reload_reads_even_what_did_not_change(certificates: CertificateAuthority, tmp_path: Path):
    reloads = Reloads(tmp_path, certificates.ca_pem)
    assert reloads.tls.reload()
    reloads.write(b"broken")
    assert not reloads.tls.reload()
    assert (reloads.tls.generation, reloads.said) == (1, ["loaded", "failed"])


def test_want_of_descriptors_is_not_blamed_on_the_bundle_which_is_read_again_later(certificates: CertificateAuthority, tmp_path: Path):
    reloads = Reloads(tmp_path, certificates.ca_pem)
    reloads.write(CertificateAuthority(tmp_path / "other", name="other").ca_pem)
    with no_descriptor_left():
        with pytest.raises(OSError, match="Too many open files"):
            client_context(roots(reloads.path))
        reloads.tls.refresh()
    assert (reloads.tls.generation, reloads.said) == (0, ["failed"])
    reloads.tls.refresh()
    assert (reloads.tls.generation, reloads.said) == (1, ["failed", "loaded"])


def test_the_system_roots_are_used_without_a_file_and_can_be_read_again():
    said: list[str] = []
    tls = TlsClient(TlsProfile(), lambda _, result: said.append(result))
    tls.refresh()
    assert said == []
    assert tls.reload()
    assert (tls.generation, said) == (1, ["loaded"])


def test_each_profile_has_its_own_context_and_generation(certificates: CertificateAuthority, tmp_path: Path):
    other = CertificateAuthority(tmp_path, name="other")
    one, two = roots(certificates.ca_file), roots(other.ca_file)
    reloaded: list[tuple[TlsProfile, str]] = []
    tls = UpstreamTls(lambda profile, result: reloaded.append((profile, result)), profiles=[one])
    assert tls.client(two) is tls.client(roots(other.ca_file)) is not tls.client(one)
    other.ca_file.write_bytes(certificates.ca_pem)
    tls.refresh()
    assert reloaded == [(two, "loaded")]
    assert [tls.client(profile).generation for profile in (one, two)] == [0, 1]
    tls.reload()
    assert [tls.client(profile).generation for profile in (one, two)] == [1, 2]


def test_a_profile_that_cannot_be_loaded_stops_the_start_and_is_a_fault_later(tmp_path: Path):
    with pytest.raises(TlsFileError, match="No such file"):
        UpstreamTls(lambda *_: None, profiles=[roots(tmp_path / "none")])
    tls = UpstreamTls(lambda *_: None)
    with pytest.raises(Fault, match="unknown_ca"):
        tls.client(roots(tmp_path / "none"))
    with no_descriptor_left(), pytest.raises(Fault, match="descriptors"):
        tls.client(roots(tmp_path / "none"))


def test_a_client_certificate_is_shown_and_reloaded_with_its_generation(certificates: CertificateAuthority, tmp_path: Path):
    leaf, other = certificates.issue("robin.test"), certificates.issue("other.test")
    certificate, key = tmp_path / "own.pem", tmp_path / "own.key"
    certificate.write_bytes(leaf.certificate_file.read_bytes())
    key.write_bytes(leaf.key_file.read_bytes())
    profile = TlsProfile(ca_file=str(certificates.ca_file), certificate_file=str(certificate), key_file=str(key))
    client = TlsClient(profile, lambda *_: None)
    server = certificates.issue("broker.robin.test").server_context()
    server.load_verify_locations(certificates.ca_file)
    server.verify_mode = ssl.CERT_REQUIRED
    assert shown_names(server, client.context) == ["robin.test"]
    certificate.write_bytes(other.certificate_file.read_bytes())
    client.refresh()
    assert client.generation == 0, "half of a change: the certificate does not fit the key"
    key.write_bytes(other.key_file.read_bytes())
    client.refresh()
    assert (client.generation, shown_names(server, client.context)) == (1, ["other.test"])


@pytest.mark.parametrize("spoiled", ["missing", "not PEM", "a FIFO", "encrypted"])
def test_a_client_certificate_that_cannot_be_used_is_refused(certificates: CertificateAuthority, tmp_path: Path, spoiled: str):
    leaf = certificates.issue("robin.test")
    key = tmp_path / "key.pem"
    if spoiled == "not PEM":
        key.write_bytes(b"nonsense")
    elif spoiled == "a FIFO":
        os.mkfifo(key)
    elif spoiled == "encrypted":
        opened = serialization.load_pem_private_key(leaf.key_file.read_bytes(), None)
        secret = serialization.BestAvailableEncryption(b"pass")
        key.write_bytes(opened.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, secret))
    with pytest.raises(TlsFileError):
        client_context(TlsProfile(certificate_file=str(leaf.certificate_file), key_file=str(key)))


def shown_names(server: ssl.SSLContext, client: ssl.SSLContext) -> list[str]:
    """The names in the certificate that the client shows in a handshake in memory."""
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    ours = client.wrap_bio(down, up, server_hostname="broker.robin.test")
    theirs = server.wrap_bio(up, down, server_side=True)
    for _ in range(3):
        for side in (ours, theirs):
            with contextlib.suppress(ssl.SSLWantReadError):
                side.do_handshake()
    certificate = theirs.getpeercert()
    assert certificate is not None
    return [name for _, name in certificate["subjectAltName"]]


@pytest.mark.parametrize(
    ("names", "starts_in_s", "ends_in_s", "word"),
    [
        (("broker.robin.test",), -60, 60, None),
        (("*.robin.test",), -60, 60, None),
        (("broker.robin.test",), -60, -1, "expired"),
        (("broker.robin.test",), 60, 120, "not_yet_valid"),
        (("other.test",), -60, 60, "name_mismatch"),
        (("*.broker.robin.test",), -60, 60, "name_mismatch"),
        (("127.0.0.1",), -60, 60, "name_mismatch"),
    ],
)
def test_why_a_certificate_is_refused(certificates: CertificateAuthority, names: tuple[str, ...], starts_in_s, ends_in_s, word: str | None):
    leaf = certificates.issue(*names, starts_in_s=starts_in_s, ends_in_s=ends_in_s)
    assert refusal(leaf.server_context(), client_context(roots(certificates.ca_file))) == (word and ("upstream_certificate", word))


def test_a_stranger_and_an_old_version_are_told_apart(certificates: CertificateAuthority, tmp_path: Path):
    leaf = certificates.issue("broker.robin.test")
    stranger = CertificateAuthority(tmp_path)
    assert refusal(leaf.server_context(), client_context(roots(stranger.ca_file))) == ("upstream_certificate", "unknown_ca")
    old = leaf.server_context(minimum=ssl.TLSVersion.TLSv1_1, maximum=ssl.TLSVersion.TLSv1_1)
    assert refusal(old, client_context(roots(certificates.ca_file))) == ("upstream_tls", "alert")


def refusal(server: ssl.SSLContext, client: ssl.SSLContext) -> tuple[str, str] | None:
    """A handshake in memory: the code and reason word of its failure, None when it succeeds."""
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    ours = client.wrap_bio(down, up, server_hostname="broker.robin.test")
    theirs = server.wrap_bio(up, down, server_side=True)
    done = set()
    while len(done) < 2:
        for side in (ours, theirs):
            try:
                side.do_handshake()
                done.add(side)
            except ssl.SSLWantReadError:
                pass
            except ssl.SSLError as error:
                if side is theirs:
                    continue  # it alerts us, and we say why
                fault = tls_fault(error)
                assert "broker" not in fault.detail, "never the peer's own text"
                return fault.code, fault.detail.partition(":")[0]
    return None

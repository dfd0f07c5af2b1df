"""Roots and versions towards the upstream: what is loaded, what is refused, when it is read again, and why a handshake failed."""

import os
import ssl
from pathlib import Path

import pytest
from tests.descriptors import no_descriptor_left

from robin.testing.certificates import CertificateAuthority
from robin.transport.tls import RootsError, UpstreamTls, client_context, tls_fault


def test_a_context_verifies_chain_and_name_and_begins_at_tls_1_2(certificates: CertificateAuthority):
    context = client_context(str(certificates.ca_file))
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.check_hostname
    assert context.minimum_version is ssl.TLSVersion.TLSv1_2
    assert context.options & ssl.OP_NO_RENEGOTIATION


def test_a_file_replaces_the_system_roots(certificates: CertificateAuthority, tmp_path: Path):
    other = CertificateAuthority(tmp_path, name="other")
    both = tmp_path / "both.pem"
    both.write_bytes(certificates.ca_pem + "\n# Főtanúsítvány, a comment between\n".encode() + other.ca_pem)
    assert len(client_context(str(certificates.ca_file)).get_ca_certs()) == 1
    assert len(client_context(str(both)).get_ca_certs()) == 2


@pytest.mark.parametrize(
    "content",
    [b"", b"\n", b"nonsense", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", b"\xff\xfe", bytes(8 * 1024 * 1024 + 1)],
    ids=["empty", "blank", "nonsense", "no certificate inside", "binary", "too large"],
)
def test_what_is_no_bundle_is_refused(tmp_path: Path, content: bytes):
    path = tmp_path / "ca.pem"
    path.write_bytes(content)
    with pytest.raises(RootsError):
        client_context(str(path))


def test_a_fifo_is_no_bundle_and_hangs_nobody(tmp_path: Path):
    path = tmp_path / "ca.pem"
    os.mkfifo(path)
    with pytest.raises(RootsError, match="regular file"):
        client_context(str(path))


def test_a_private_key_alone_is_no_bundle(certificates: CertificateAuthority):
    with pytest.raises(RootsError):
        client_context(str(certificates.issue("x.test").key_file))


class Reloads:
    """A UpstreamTls on a file of its own, and what it said of each reload."""

    def __init__(self, folder: Path, content: bytes) -> None:
        self.path = folder / "ca.pem"
        self.path.write_bytes(content)
        self.said: list[str] = []
        self.tls = UpstreamTls(str(self.path), self.said.append)

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
            client_context(str(reloads.path))
        reloads.tls.refresh()
    assert (reloads.tls.generation, reloads.said) == (0, ["failed"])
    reloads.tls.refresh()
    assert (reloads.tls.generation, reloads.said) == (1, ["failed", "loaded"])


def test_the_system_roots_are_used_without_a_file_and_can_be_read_again():
    said: list[str] = []
    tls = UpstreamTls(None, said.append)
    tls.refresh()
    assert said == []
    assert tls.reload()
    assert (tls.generation, said) == (1, ["loaded"])


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
    assert refusal(leaf.server_context(), client_context(str(certificates.ca_file))) == (word and ("upstream_certificate", word))


def test_a_stranger_and_an_old_version_are_told_apart(certificates: CertificateAuthority, tmp_path: Path):
    leaf = certificates.issue("broker.robin.test")
    stranger = CertificateAuthority(tmp_path)
    assert refusal(leaf.server_context(), client_context(str(stranger.ca_file))) == ("upstream_certificate", "unknown_ca")
    old = leaf.server_context(minimum=ssl.TLSVersion.TLSv1_1, maximum=ssl.TLSVersion.TLSv1_1)
    assert refusal(old, client_context(str(certificates.ca_file))) == ("upstream_tls", "alert")


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

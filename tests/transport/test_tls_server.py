"""The files of a listener's TLS: what is loaded, what is refused, and when it is loaded again."""

import contextlib
import ssl
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization

from robin.testing.certificates import CertificateAuthority, Leaf
from robin.transport.tls import TlsFileError
from robin.transport.tls_server import ServerTls


def pair_in(folder: Path, leaf: Leaf) -> tuple[Path, Path]:
    """A server's files, to be replaced one after the other."""
    certificate, key = folder / "tls.crt", folder / "tls.key"
    certificate.write_bytes(leaf.certificate_file.read_bytes())
    key.write_bytes(leaf.key_file.read_bytes())
    return certificate, key


def test_a_half_replaced_pair_keeps_the_last_good_one_until_it_is_whole(certificates: CertificateAuthority, tmp_path: Path):
    said: list[str] = []
    first, second = certificates.issue("first.test"), certificates.issue("broker.robin.test")
    certificate, key = pair_in(tmp_path, first)
    tls = ServerTls(str(certificate), str(key), said.append)
    context = tls.context
    tls.refresh()
    certificate.write_bytes(second.certificate_file.read_bytes())
    tls.refresh()
    tls.refresh()
    assert (tls.context, tls.generation, said) == (context, 0, ["failed"])
    key.write_bytes(second.key_file.read_bytes())
    tls.refresh()
    tls.refresh()
    assert (tls.generation, said) == (1, ["failed", "loaded"])
    assert tls.context is not context


def test_the_roots_of_clients_are_read_again_too(certificates: CertificateAuthority, tmp_path: Path):
    said: list[str] = []
    certificate, key = pair_in(tmp_path, certificates.issue("a.test"))
    roots = tmp_path / "roots.pem"
    roots.write_bytes(certificates.ca_pem)
    tls = ServerTls(str(certificate), str(key), said.append, client_ca_file=str(roots), required=False)
    assert tls.context.verify_mode is ssl.CERT_OPTIONAL
    roots.write_bytes(b"broken")
    tls.refresh()
    roots.write_bytes(certificates.ca_pem * 2)
    tls.refresh()
    assert (tls.generation, said) == (1, ["failed", "loaded"])


@pytest.mark.parametrize(
    ("certificate", "key", "reason"),
    [
        (b"nonsense", None, "no usable PEM certificate"),
        (None, b"", "no usable PEM certificate"),
        (None, b"other", "not that of the certificate"),
        (None, b"encrypted", "encrypted"),
        (None, bytes(8 * 1024 * 1024 + 1), "exceeds 8 MiB"),
    ],
    ids=["nonsense", "no key", "another key", "encrypted key", "too large"],
)
def test_a_pair_that_cannot_be_used_says_why(
    certificates: CertificateAuthority, tmp_path: Path, certificate: bytes | None, key: bytes | None, reason: str
):
    leaf = certificates.issue("a.test")
    if key == b"other":
        key = certificates.issue("a.test").key_file.read_bytes()
    elif key == b"encrypted":
        clear = serialization.load_pem_private_key(leaf.key_file.read_bytes(), None)
        how = serialization.BestAvailableEncryption(b"secret")
        key = clear.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, how)
    files = pair_in(tmp_path, leaf)
    for file, content in zip(files, (certificate, key), strict=True):
        if content is not None:
            file.write_bytes(content)
    with pytest.raises(TlsFileError, match=reason):
        ServerTls(str(files[0]), str(files[1]), lambda _: None)


def test_a_server_without_its_files_says_so(tmp_path: Path):
    with pytest.raises(TlsFileError, match="No such file"):
        ServerTls(str(tmp_path / "tls.crt"), str(tmp_path / "tls.key"), lambda _: None)


def test_no_session_can_be_resumed(certificates: CertificateAuthority, tmp_path: Path):
    certificate, key = pair_in(tmp_path, certificates.issue("a.test"))
    server = ServerTls(str(certificate), str(key), lambda _: None).context
    client = ssl.create_default_context(cafile=str(certificates.ca_file))
    for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        client.maximum_version = version
        session: ssl.SSLSession | None = None
        for _ in range(2):
            to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
            ours = client.wrap_bio(to_client, to_server, server_hostname="a.test", session=session)
            theirs = server.wrap_bio(to_server, to_client, server_side=True)
            for end in (ours, theirs, ours, theirs, ours):
                with contextlib.suppress(ssl.SSLWantReadError):
                    end.do_handshake()
            theirs.write(b"x")
            assert ours.read() == b"x"  # and tickets, if there were any
            assert not ours.session_reused
            session = ours.session
            assert session is None or not session.has_ticket

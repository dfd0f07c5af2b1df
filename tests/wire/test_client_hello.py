"""A ClientHello is read as OpenSSL reads it, however it is cut; what is malformed is refused with a reason."""

import random
import ssl
import struct

import pytest

from robin.wire.client_hello import (
    LIMIT_BYTES,
    NO_APPLICATION_PROTOCOL,
    ClientHello,
    ClientHelloError,
    ClientHelloReader,
    fatal_alert,
)


def sent_by_openssl(name: str | None, protocols: tuple[str, ...] = (), *, maximum: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3) -> bytes:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.maximum_version = maximum
    if protocols:
        context.set_alpn_protocols(list(protocols))
    outgoing = ssl.MemoryBIO()
    with pytest.raises(ssl.SSLWantReadError):
        context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname=name).do_handshake()
    return outgoing.read()


def vector(width: int, octets: bytes) -> bytes:
    return len(octets).to_bytes(width, "big") + octets


def extension(kind: int, octets: bytes) -> bytes:
    return struct.pack("!H", kind) + vector(2, octets)


def server_name(name: bytes, kind: int = 0) -> bytes:
    return extension(0, vector(2, bytes((kind,)) + vector(2, name)))


def alpn(*names: bytes) -> bytes:
    return extension(16, vector(2, b"".join(vector(1, name) for name in names)))


def message(extensions: bytes | None, *, kind: int = 1, suites: bytes = b"\x13\x01", tail: bytes = b"") -> bytes:
    body = b"\x03\x03" + bytes(32) + vector(1, b"") + vector(2, suites) + vector(1, b"\0")
    body += tail if extensions is None else vector(2, extensions) + tail
    return bytes((kind,)) + vector(3, body)


def records(octets: bytes, size: int = 16384) -> bytes:
    return b"".join(b"\x16\x03\x01" + vector(2, octets[at : at + size]) for at in range(0, len(octets), size))


def read(octets: bytes, cut: int = 1 << 20) -> ClientHello | None:
    reader = ClientHelloReader()
    for at in range(0, len(octets), cut):
        if (hello := reader.feed(octets[at : at + cut])) is not None:
            return hello
    return None


@pytest.mark.parametrize("maximum", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize(
    ("name", "protocols"),
    [
        ("broker.robin.test", ()),
        ("A.Broker.Test", ("http/1.1",)),
        (None, ("h2", "http/1.1")),
        ("xn--bcher-kva.example", ("h2",)),
        ("a_b.test", ()),
    ],
)
def test_it_is_read_as_openssl_wrote_it(name: str | None, protocols: tuple[str, ...], maximum: ssl.TLSVersion):
    octets = sent_by_openssl(name, protocols, maximum=maximum)
    expected = ClientHello(
        server_name=None if name is None else name.lower().encode(), protocols=tuple(one.encode() for one in protocols), ech=False
    )
    for cut in (1, 2, 7, 1000):
        assert read(octets, cut) == expected
        assert read(records(octets[5:], cut), 3) == expected


def test_encrypted_client_hello_is_seen():
    hello = read(records(message(server_name(b"public.test") + extension(0xFE0D, b"\0" * 40))))
    assert hello == ClientHello(server_name=b"public.test", protocols=(), ech=True)


def test_one_without_extensions_and_with_early_data_behind_it_is_whole():
    assert read(records(message(None)) + b"\x17\x03\x03\x00\x05early") == ClientHello(server_name=None, protocols=(), ech=False)


def test_it_may_have_16_kib_and_no_more():
    padding = LIMIT_BYTES - 5 - len(message(extension(21, b"")))
    assert read(records(message(extension(21, bytes(padding)))), 100) is not None
    for cut in (100, 1 << 20):
        with pytest.raises(ClientHelloError, match="larger than 16 KiB"):
            read(records(message(extension(21, bytes(padding + 1)))), cut)


@pytest.mark.parametrize(
    ("octets", "reason"),
    [
        (b"GET / HTTP/1.1\r\n", "not_tls: "),
        (b"\x80\x2e\x01\x03\x01", "not_tls: "),
        (b"\x16\x02", "not_tls: "),
        (b"\x15\x03\x01\x00\x02\x02\x28", "not_tls: "),
        (b"\x16\x03\x01\x00\x00", "no or too many"),
        (b"\x16\x03\x01\x40\x01", "no or too many"),
        (records(message(b"")[:30]) + b"\x14\x03\x03\x00\x01\x01", "another record"),
        (records(message(b"", kind=2)), "no ClientHello"),
        (records(b"\x01\xff\xff\xff"), "larger than 16 KiB"),
        (records(message(b"") + b"\x01"), "bytes follow it in its record"),
        (records(b"\x01" + vector(3, b"\x02\x00" + bytes(80))), "version"),
        (records(b"\x01" + vector(3, b"\x03\x03" + bytes(32) + vector(1, bytes(33)) + bytes(20))), "session id"),
        (records(message(b"", suites=b"\x13")), "cipher suites"),
        (records(message(b"", suites=b"")), "cipher suites"),
        (records(message(b"", tail=b"x")), "bytes follow its extensions"),
        (records(message(None, tail=b"\x00\x05x")), "length points behind"),
        (records(message(b"\x00\x10\x00")), "length points behind"),
        (records(message(server_name(b"a.test") * 2)), "repeated"),
        (records(message(extension(0, b""))), "length points behind"),
        (records(message(server_name(b""))), "no host name"),
        (records(message(server_name(b"."))), "no host name"),
        (records(message(server_name(b"a\x00b.test"))), "no host name"),
        (records(message(server_name(b"[::1]"))), "no host name"),
        (records(message(server_name(b"a." * 128))), "no host name"),
        (records(message(server_name(b"a.test", kind=1))), "not one host name"),
        (records(message(extension(0, vector(2, (b"\0" + vector(2, b"a")) * 2)))), "not one host name"),
        (records(message(alpn())), "protocol names"),
        (records(message(alpn(b"h2", b""))), "protocol names"),
        (records(message(extension(16, vector(2, vector(1, b"h2")) + b"x"))), "protocol names"),
    ],
)
def test_what_is_malformed_is_refused_with_a_reason(octets: bytes, reason: str):
    for cut in (1, 1 << 20):
        with pytest.raises(ClientHelloError, match=reason):
            read(octets, cut)


def test_a_final_dot_is_no_part_of_the_name():
    hello = read(records(message(server_name(b"Broker.Test."))))
    assert hello is not None
    assert hello.server_name == b"broker.test"


def outcome(octets: bytes, cut: int) -> ClientHello | str | None:
    try:
        return read(octets, cut)
    except ClientHelloError as error:
        return str(error)


def test_damaged_ones_are_read_alike_however_they_are_cut():
    chance = random.Random(20)
    whole = sent_by_openssl("broker.robin.test", ("h2", "http/1.1"))
    for _ in range(2000):
        damaged = bytearray(whole)
        for _ in range(chance.randint(1, 4)):
            damaged[chance.randrange(len(damaged))] = chance.randrange(256)
        del damaged[chance.randrange(len(damaged)) : chance.randrange(len(damaged))]
        assert outcome(bytes(damaged), 1 << 20) == outcome(bytes(damaged), chance.randint(1, 60))


def test_a_refusal_is_an_alert_that_the_client_understands():
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    incoming = ssl.MemoryBIO()
    client = context.wrap_bio(incoming, ssl.MemoryBIO(), server_hostname="a.test")
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    incoming.write(fatal_alert(NO_APPLICATION_PROTOCOL))
    with pytest.raises(ssl.SSLError, match="alert no application protocol"):
        client.do_handshake()

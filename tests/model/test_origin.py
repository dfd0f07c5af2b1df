"""Origins are equal only when scheme, host, port and authority are, though their hash looks at the authority alone."""

from robin.model.origin import Origin, UpstreamUrl

BROKER = Origin(scheme="https", host="broker.test", port=443, authority=b"broker.test")


def test_an_origin_is_written_as_a_url_without_its_default_port() -> None:
    assert str(BROKER) == "https://broker.test"
    assert str(Origin(scheme="http", host="::1", port=81, authority=b"[::1]:81")) == "http://[::1]:81"


def test_only_https_is_tls() -> None:
    assert BROKER.tls
    assert not Origin(scheme="http", host="broker.test", port=443, authority=b"broker.test").tls


def test_origins_with_one_authority_but_another_scheme_are_kept_apart() -> None:
    cleartext = Origin(scheme="http", host="broker.test", port=443, authority=b"broker.test")
    assert hash(cleartext) == hash(BROKER)
    assert len({BROKER: 1, cleartext: 2}) == 2


def test_an_upstream_url_ends_in_its_base_path() -> None:
    assert str(UpstreamUrl(origin=BROKER, base_path=b"/v1")) == "https://broker.test/v1"
    assert str(UpstreamUrl(origin=BROKER, base_path=b"")) == "https://broker.test"

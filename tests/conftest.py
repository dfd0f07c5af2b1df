"""Small fixtures that every test may use; the parts themselves are in `robin.testing`."""

from pathlib import Path

import pytest

from robin.testing.certificates import CertificateAuthority


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> CertificateAuthority:
    """One CA for the whole run; issue a leaf for each name that a test needs."""
    return CertificateAuthority(Path(tmp_path_factory.mktemp("certificates")))

"""The certificates of a PEM file as octets, without a look inside: files of public roots hold some that strict parsers refuse."""

import base64
import hashlib
import re
from typing import Final

_BLOCK: Final = re.compile(rb"-----BEGIN CERTIFICATE-----([^-]+)-----END CERTIFICATE-----")


def certificate_blocks(content: bytes) -> list[bytes]:
    """Each as PEM, with one line feed at its end."""
    return [found[0].replace(b"\r\n", b"\n") + b"\n" for found in _BLOCK.finditer(content)]


def fingerprints(content: bytes) -> list[str]:
    """The SHA-256 of each. Raises ValueError for what is not Base64."""
    return [hashlib.sha256(base64.b64decode(found[1])).hexdigest() for found in _BLOCK.finditer(content)]

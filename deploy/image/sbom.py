"""The software bill of materials of the image: SPDX 2.3 as JSON, one entry for each Debian package and each wheel in it."""

import email
import hashlib
import json
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from deploy.image.debian import Package

NOT_STATED = "NOASSERTION"


def document(*, name: str, version: str, digest: str, created: str, packages: Sequence[Package], wheels: Sequence[Path]) -> dict[str, Any]:
    """The bill for the image with this digest ("sha256:..."); `created` is RFC 3339 with a Z."""
    checksum = digest.removeprefix("sha256:")
    image = _package(
        "SPDXRef-image", name, version, location=NOT_STATED, sha256=checksum, purl=f"pkg:oci/{name}@{digest}", licence="Apache-2.0"
    )
    parts = [*(_debian(one) for one in packages), *(_wheel(one) for one in wheels)]
    contains = [_relation("SPDXRef-image", "CONTAINS", part["SPDXID"]) for part in parts]
    return {
        "spdxVersion": "SPDX-2.3",
        "dataLicense": "CC0-1.0",
        "SPDXID": "SPDXRef-DOCUMENT",
        "name": f"{name}-{version}",
        "documentNamespace": f"urn:sha256:{checksum}",
        "creationInfo": {"created": created, "creators": ["Tool: robin-make-image"]},
        "packages": [image, *parts],
        "relationships": [_relation("SPDXRef-DOCUMENT", "DESCRIBES", "SPDXRef-image"), *contains],
    }


def write(path: Path, bill: dict[str, Any]) -> None:
    """As a person can read it, and always the same."""
    path.write_text(json.dumps(bill, indent=1, sort_keys=True) + "\n")


def _debian(one: Package) -> dict[str, Any]:
    purl = f"pkg:deb/debian/{one.name}@{one.version}?arch=amd64&distro=debian-12"
    identifier = f"SPDXRef-deb-{one.name.replace('+', '.')}"
    return _package(identifier, one.name, one.version, location=one.url, sha256=one.sha256, purl=purl, licence=NOT_STATED)


def _wheel(path: Path) -> dict[str, Any]:
    with zipfile.ZipFile(path) as archive:
        (name,) = [one for one in archive.namelist() if one.endswith(".dist-info/METADATA") and one.count("/") == 1]
        stated = email.message_from_bytes(archive.read(name))
    title, version = stated["Name"].lower().replace("_", "-"), stated["Version"]
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    purl = f"pkg:pypi/{title}@{version}"
    licence = stated["License-Expression"] or NOT_STATED
    return _package(f"SPDXRef-pypi-{title}", title, version, location=NOT_STATED, sha256=sha256, purl=purl, licence=licence)


def _package(identifier: str, name: str, version: str, *, location: str, sha256: str, purl: str, licence: str) -> dict[str, Any]:
    return {
        "SPDXID": identifier,
        "name": name,
        "versionInfo": version,
        "downloadLocation": location,
        "filesAnalyzed": False,
        "licenseConcluded": NOT_STATED,
        "licenseDeclared": licence,
        "copyrightText": NOT_STATED,
        "checksums": [{"algorithm": "SHA256", "checksumValue": sha256}],
        "externalRefs": [{"referenceCategory": "PACKAGE-MANAGER", "referenceType": "purl", "referenceLocator": purl}],
    }


def _relation(subject: str, kind: str, related: str) -> dict[str, str]:
    return {"spdxElementId": subject, "relationshipType": kind, "relatedSpdxElement": related}

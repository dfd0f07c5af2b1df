"""The responses of AWS STS as bytes: a small reader of XML for the few elements that are used.

The document is read as UTF-8 whatever it declares. One that holds `<!` (a document type, an entity, a comment, CDATA) is refused before it
reaches the parser, and one that is deep or has an element twice while it is read. No text of an issuer leaves this module but the keys, as
Secrets, and words that are in a list here.
"""

import re
from dataclasses import dataclass
from typing import Final

from robin.model.credential import SigningKeys
from robin.model.secret import Secret
from robin.wire.oauth import parse_time

STS_ERRORS: Final = frozenset(
    "AccessDenied ExpiredTokenException IDPCommunicationError IDPRejectedClaim InvalidIdentityToken InvalidParameterValue "
    "MalformedPolicyDocument PackedPolicyTooLarge RegionDisabledException Throttling ValidationError".split()
)
"""The error codes that may be shown."""

_RESULT: Final = ("AssumeRoleWithWebIdentityResponse", "AssumeRoleWithWebIdentityResult", "Credentials")
_WANTED: Final = {(*_RESULT, name) for name in ("AccessKeyId", "SecretAccessKey", "SessionToken", "Expiration")}
_REQUEST_ID: Final = (_RESULT[0], "ResponseMetadata", "RequestId")
_ERROR_CODE: Final = ("ErrorResponse", "Error", "Code")
_ERROR_REQUEST_ID: Final = ("ErrorResponse", "RequestId")
_READ: Final = frozenset({*_WANTED, _REQUEST_ID, _ERROR_CODE, _ERROR_REQUEST_ID})
_DEPTH_MAX: Final = 16
_ELEMENTS_MAX: Final = 256
_XML_TYPE: Final = re.compile(r"(?:text|application)/(?:[a-z0-9.+-]+\+)?xml", re.IGNORECASE)
_KEY_ID: Final = re.compile(r"[A-Za-z0-9_]{16,128}")
_SECRET: Final = re.compile(r"[!-~]{16,512}")
_ID: Final = re.compile(r"[0-9A-Za-z-]{1,64}")


class BadStsResponse(Exception):
    """A success that cannot be accepted. `reason` is one stable word."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, slots=True, kw_only=True)
class StsCredentials:
    """A success. `expires_at`: seconds since the epoch by the clock of STS."""

    keys: SigningKeys
    expires_at: float
    request_id: str


def parse_sts_credentials(fields: dict[str, str], body: Secret, *, token_bytes_max: int) -> StsCredentials:
    """Parse the body of a 200. Raises BadStsResponse."""
    if fields.get("content-encoding", "identity").lower() != "identity":
        raise BadStsResponse("content_coding")
    if _XML_TYPE.fullmatch(fields.get("content-type", "").partition(";")[0].strip()) is None:
        raise BadStsResponse("media_type")
    texts = _parse(body)
    key_id, secret, token, until = (
        texts.get((*_RESULT, name), "") for name in ("AccessKeyId", "SecretAccessKey", "SessionToken", "Expiration")
    )
    if _KEY_ID.fullmatch(key_id) is None or _SECRET.fullmatch(secret) is None:
        raise BadStsResponse("access_key")
    if not token or len(token) > token_bytes_max or not token.isascii() or not token.isprintable() or " " in token:
        raise BadStsResponse("session_token")
    expires_at = parse_time(until)
    if expires_at is None:
        raise BadStsResponse("expiration")
    return StsCredentials(
        keys=SigningKeys(access_key_id=key_id, secret_access_key=Secret(secret.encode()), session_token=Secret(token.encode())),
        expires_at=expires_at,
        request_id=_id(texts.get(_REQUEST_ID, "")),
    )


def parse_sts_error(body: Secret) -> tuple[str, str]:
    """The code of an error, if it is one of STS_ERRORS, else ""; and the id of the request, if it has one."""
    try:
        texts = _parse(body)
    except BadStsResponse:
        return "", ""
    code = texts.get(_ERROR_CODE, "")
    return code if code in STS_ERRORS else "", _id(texts.get(_ERROR_REQUEST_ID, ""))


def _id(text: str) -> str:
    return text if _ID.fullmatch(text) is not None else ""


def _parse(body: Secret) -> dict[tuple[str, ...], str]:
    """The texts of the elements in _READ, by their path without namespaces. Raises BadStsResponse."""
    octets = body.reveal()
    if b"<!" in octets:
        raise BadStsResponse("document_type")
    try:
        text = octets.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise BadStsResponse("xml") from None
    reader = _Reader()
    reader.read(text)
    return {path: "".join(pieces).strip() for path, pieces in reader.texts.items()}


class _Reader:
    """Collects the texts of one document. Text as `str` is parsed as UTF-8, so that no declared encoding gives it another meaning."""

    def __init__(self) -> None:
        self.texts: dict[tuple[str, ...], list[str]] = {}
        self._path: list[str] = []
        self._elements = 0

    def read(self, text: str) -> None:
        """Raises BadStsResponse."""
        from xml.parsers import expat  # noqa: PLC0415 - only a plane with such a grant loads it

        parser = expat.ParserCreate(encoding="utf-8")
        parser.buffer_text = True
        parser.StartElementHandler = self._start
        parser.EndElementHandler = self._end
        parser.CharacterDataHandler = self._text
        parser.StartDoctypeDeclHandler = parser.EntityDeclHandler = parser.ProcessingInstructionHandler = _refuse
        try:
            parser.Parse(text, True)
        except expat.ExpatError:
            raise BadStsResponse("xml") from None

    def _start(self, name: str, _attributes: dict[str, str]) -> None:
        self._path.append(name.rpartition(":")[2])
        self._elements += 1
        if len(self._path) > _DEPTH_MAX or self._elements > _ELEMENTS_MAX:
            raise BadStsResponse("xml")
        path = tuple(self._path)
        if path in _READ:
            if path in self.texts:
                raise BadStsResponse("duplicate_member")
            self.texts[path] = []

    def _end(self, _name: str) -> None:
        self._path.pop()

    def _text(self, text: str) -> None:
        found = self.texts.get(tuple(self._path))
        if found is not None:
            found.append(text)


def _refuse(*_: object) -> None:
    raise BadStsResponse("document_type")

"""WSGI middleware: the application is called for verified requests alone, with the body that was verified.

Traps: a WSGI server joins the lines of one name with a comma, and takes `_` for `-` in names. So a covered value with a comma is refused.
gunicorn takes SCRIPT_NAME from a header of that name, by default of every client on loopback: then the client says which part of the path
the application sees, and no proof covers that.
"""

from collections.abc import Callable, Iterable
from concurrent.futures import Future
from http import HTTPStatus
from io import BytesIO
from typing import Any, Final, TypeVar

from robin.model.passport import ReceivedRequest
from robin.model.passport_reasons import Refused
from robin.passport.requests import check_target, find_ambiguity, is_stripped, refusal, verified
from robin.passport.verifier import ANSWER_S, Verifier
from robin.planes.broker.verifier import Verification

Environ = dict[str, Any]
StartResponse = Callable[..., Any]
App = Callable[[Environ, StartResponse], Iterable[bytes]]
T = TypeVar("T")

_PATH_FIELDS: Final = frozenset({"HTTP_SCRIPT_NAME", "HTTP_PATH_INFO"})


class PassportWSGI:
    """Wrap an application: `app = PassportWSGI(app, Verifier.from_config("robin.yaml"))`.

    The application finds a `VerifiedPassport` in `environ["robin.passport"]`. The server has to give the target as it was sent, in
    `RAW_URI` or `REQUEST_URI`.
    """

    def __init__(self, app: App, verifier: Verifier) -> None:
        self._app = app
        self._verifier = verifier

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """Serve one request, by PEP 3333."""
        one = self._verifier.begin(_received(environ), "wsgi")
        try:
            body = self._judge(environ, one)
        except Refused as refused:
            status, fields, problem = refusal(one, refused)
            start_response(f"{status} {HTTPStatus(status).phrase}", fields)
            return [problem]
        value, headers = verified(one.found)
        inner = {name: entry for name, entry in environ.items() if not _is_stripped(name, one.found.profile)}
        inner |= {"HTTP_" + name.upper().replace("-", "_"): text for name, text in headers.items()}
        inner |= {"robin.passport": value, "wsgi.input": BytesIO(body), "CONTENT_LENGTH": str(len(body)), "wsgi.input_terminated": True}
        return self._app(inner, start_response)

    def _judge(self, environ: Environ, one: Verification) -> bytes:
        """The body of an accepted request. Raises Refused."""
        try:
            _check_target(environ, one.request)
        except Refused as refused:
            raise _within_time(self._verifier.refuse(one, refused)) from None
        _within_time(self._verifier.check_head(one))
        try:
            body = _read(environ, one.request.body_bytes, self._verifier.max_body_bytes)
        except Refused as refused:
            raise _within_time(self._verifier.refuse(one, refused)) from None
        _within_time(self._verifier.admit(one, body))
        return body


def _received(environ: Environ) -> ReceivedRequest:
    fields = [(key[5:].lower().replace("_", "-"), value.strip(" \t")) for key, value in environ.items() if key.startswith("HTTP_")]
    fields += [(key.lower().replace("_", "-"), environ[key]) for key in ("CONTENT_TYPE", "CONTENT_LENGTH") if environ.get(key)]
    length, chunked = environ.get("CONTENT_LENGTH") or "", "HTTP_TRANSFER_ENCODING" in environ
    known = length.isascii() and length.isdigit() and not chunked
    return ReceivedRequest(
        method=environ["REQUEST_METHOD"],
        target=environ.get("RAW_URI") or environ.get("REQUEST_URI") or "",
        authority=environ.get("HTTP_HOST", ""),
        fields=tuple(fields),
        body_bytes=int(length[:18]) if known else None if length or chunked else 0,
        joined=", ",
    )


def _check_target(environ: Environ, request: ReceivedRequest) -> None:
    """Raises Refused."""
    if not request.target:
        raise Refused("raw_target_unavailable", "raw_uri")
    if not _PATH_FIELDS.isdisjoint(environ):
        raise Refused("raw_target_unavailable", "script_name")
    if (detail := find_ambiguity(request)) is not None:
        raise Refused("transcript_ambiguous", detail)
    check_target(request, (environ.get("SCRIPT_NAME", "") + environ.get("PATH_INFO", "")).encode("latin-1"))
    if "#" not in request.target and request.query != environ.get("QUERY_STRING", ""):
        raise Refused("raw_target_unavailable", "query")


def _read(environ: Environ, announced: int | None, most: int) -> bytes:
    """The whole body. Raises Refused."""
    if announced is None and not environ.get("wsgi.input_terminated"):
        raise Refused("body_digest_mismatch", "body_not_seen")  # where it ends is not known here
    if announced is not None and announced > most:
        raise Refused("body_too_large")
    pieces, left = [], most + 1 if announced is None else announced
    while left and (piece := environ["wsgi.input"].read(left)):
        pieces.append(piece)
        left -= len(piece)
    if announced is None and not left:
        raise Refused("body_too_large")
    if announced is not None and left:
        raise Refused("body_digest_mismatch", "body_cut")
    return b"".join(pieces)


def _is_stripped(key: str, profile: str | None) -> bool:
    return key == "HTTP_TRANSFER_ENCODING" or (key.startswith("HTTP_") and is_stripped(key[5:], profile))


def _within_time(future: Future[T]) -> T:
    """The outcome of the verifier's thread. Raises Refused; a thread that does not answer is a store that does not."""
    try:
        return future.result(ANSWER_S)
    except TimeoutError:
        raise Refused("replay_store_unavailable", "timeout") from None

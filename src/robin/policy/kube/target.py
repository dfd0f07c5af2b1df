"""The target of a request to the Kubernetes API, judged strictly and taken apart once; nothing is repaired.

Rules a reader must keep: outside the tail of a `proxy` subresource no byte of the inbound target is used again, `render_target` makes it
anew from what was judged. An escape that a server could read in two ways is refused, so that all readers agree on the segments.
"""

import re
from dataclasses import dataclass
from typing import Final

METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"})
PAIRS_MAX: Final = 256
NAME_BYTES_MAX: Final = 253

_PCHAR: Final = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~!$&'()*+,=:@")
_UNRESERVED: Final = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")
_BAD_ESCAPE: Final = re.compile(rb"%(?![0-9A-Fa-f]{2})")
_VISIBLE: Final = re.compile(rb"[!-~]*")
_ESCAPE: Final = re.compile(rb"%([0-9A-Fa-f]{2})")
_TAIL_ESCAPES: Final = frozenset(b"/\\.%")
_DOTS: Final = (b".", b"..")
_WORD: Final = re.compile(r"[a-z0-9](?:[-a-z0-9.]*[a-z0-9])?")
_LABEL: Final = re.compile(r"[a-z0-9](?:[-a-z0-9]{0,61}[a-z0-9])?")
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f]")


class Malformed(Exception):
    """The request is refused as it stands. `code` is one of the plane's table; `detail` says why and holds no byte of the request."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(code, detail)
        self.code = code
        self.detail = detail


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """`segments` and the pairs of `query` are decoded. `tail`: what follows a `proxy` subresource, byte for byte with its query."""

    segments: tuple[str, ...]
    query: tuple[tuple[str, str], ...]
    tail: bytes | None = None

    def values(self, key: str) -> list[str]:
        """The values of this key, in order."""
        return [value for known, value in self.query if known == key]

    @property
    def path(self) -> str:
        """The decoded path without the tail."""
        return "/" + "/".join(self.segments)


def parse_target(target: bytes, *, max_bytes: int = 8192) -> Target:
    """Judge and take apart. Raises Malformed, in the order of the table of section 5.1."""
    if target[:1] != b"/" or b"#" in target or len(target) > max_bytes:
        raise Malformed("kube.target_form", "target_form: the target must be a path that begins with `/`, without a fragment")
    path, mark, query = target.partition(b"?")
    head, tail = _split_tail(path)
    segments = _parse_segments(head)
    if tail is not None:
        _check_tail(tail)
    _check_names(segments)
    pairs = _parse_query(query, repeats=tail is not None)
    return Target(segments=segments, query=pairs, tail=None if tail is None else tail + mark + query)


def api_prefix(segments: tuple[str, ...] | list[bytes]) -> int:
    """How many segments stand before the resource: 2 (`api/V`), 3 (`apis/G/V`); 0: this is no path of a resource."""
    first = segments[0] if segments else ""
    size = 2 if first in ("api", b"api") else 3 if first in ("apis", b"apis") else 0
    return size if size and len(segments) > size else 0


def _split_tail(path: bytes) -> tuple[bytes, bytes | None]:
    """The path up to a `proxy` subresource, and what follows it."""
    parts = path[1:].split(b"/")
    at = api_prefix(parts)
    if not at:
        return path, None
    if parts[at] == b"namespaces" and len(parts) > at + 2 and parts[at + 2] not in (b"status", b"finalize"):
        at += 2
    if len(parts) <= at + 2 or parts[at + 2] != b"proxy":
        return path, None
    head = b"/" + b"/".join(parts[: at + 3])
    return head, path[len(head) :]


def _parse_segments(path: bytes) -> tuple[str, ...]:
    if path == b"/":
        return ()
    raw = path[1:].split(b"/")
    dots = False
    for segment in raw:
        if _decode(segment) in _DOTS:
            dots = True
        elif not _segment_is_plain(segment):
            raise Malformed("kube.path_char", "path_char: the path holds a byte or an escape that servers read in different ways")
    if dots:
        raise Malformed("kube.path_segment", "path_segment: `.` and `..` are refused in any spelling")
    if b"" in raw:
        raise Malformed("kube.path_segment", "path_segment: empty segments and a trailing `/` are refused")
    return tuple(_decode(segment).decode("ascii") for segment in raw)


def _decode(segment: bytes) -> bytes:
    return _ESCAPE.sub(lambda found: bytes((int(found[1], 16),)), segment)


def _segment_is_plain(segment: bytes) -> bool:
    if _BAD_ESCAPE.search(segment) is not None or not _PCHAR.issuperset(_ESCAPE.sub(b"", segment)):
        return False
    for digits in _ESCAPE.findall(segment):
        byte = int(digits, 16)
        if byte <= 0x20 or byte >= 0x7F or byte in _UNRESERVED or byte in b"/\\%":
            return False
    return True


def _check_tail(tail: bytes) -> None:
    """What is passed to a server behind the API server: its escapes are its own, but none that could leave the path."""
    if _BAD_ESCAPE.search(tail) is not None or not (_PCHAR | {0x2F}).issuperset(_ESCAPE.sub(b"", tail)):
        raise Malformed("kube.path_char", "path_char: the path behind `proxy` holds a byte that no path may hold")
    if any(_decode(segment) in _DOTS for segment in tail.split(b"/")):
        raise Malformed("kube.path_segment", "path_segment: `.` and `..` are refused behind `proxy` too")
    for digits in _ESCAPE.findall(tail):
        byte = int(digits, 16)
        if byte < 0x20 or byte == 0x7F or byte in _TAIL_ESCAPES:
            raise Malformed("kube.path_char", "path_char: %2f, %5c, %2e, %25 and escaped controls are refused behind `proxy`")


def _check_names(segments: tuple[str, ...]) -> None:
    at = api_prefix(segments)
    if not at:
        return
    if segments[at] in ("watch", "proxy"):
        raise Malformed(
            "kube.path_legacy", "path_legacy: the old prefixes `watch/` and `proxy/` are refused; use ?watch=1 or a subresource"
        )
    words = list(segments[1:at])
    rest = segments[at:]
    if rest[0] == "namespaces" and len(rest) > 1:
        if _LABEL.fullmatch(rest[1]) is None:
            raise Malformed("kube.path_name", "path_name: the namespace is not a DNS label")
        if len(rest) > 2 and rest[2] not in ("status", "finalize"):
            rest = rest[2:]
    words += [rest[0], *rest[2:3]]
    if any(_WORD.fullmatch(word) is None for word in words):
        raise Malformed("kube.path_name", "path_name: group, version, resource and subresource are lower-case words")
    if len(rest) > 1 and len(rest[1]) > NAME_BYTES_MAX:
        raise Malformed("kube.path_name", f"path_name: the name has more than {NAME_BYTES_MAX} bytes")


def _parse_query(query: bytes, *, repeats: bool) -> tuple[tuple[str, str], ...]:
    if b";" in query or _BAD_ESCAPE.search(query) is not None or _VISIBLE.fullmatch(query) is None:
        raise _bad_query("`;`, broken escapes, and bytes that no target may hold are refused")
    pieces = [piece for piece in query.split(b"&") if piece]
    if len(pieces) > PAIRS_MAX:
        raise _bad_query(f"more than {PAIRS_MAX} pairs")
    pairs = []
    for piece in pieces:
        key, _, value = piece.replace(b"+", b" ").partition(b"=")
        try:
            pairs.append((_decode(key).decode("utf-8"), _decode(value).decode("utf-8")))
        except UnicodeDecodeError:
            raise _bad_query("it is not UTF-8") from None
    seen: set[str] = set()
    for name, text in pairs:
        if name in seen and name != "command" and not repeats:
            raise _bad_query("a key is repeated")
        seen.add(name)
        if _CONTROL.search(name) is not None or ("\x00" in text if name == "command" else _CONTROL.search(text) is not None):
            raise _bad_query("it holds a control character")
    return tuple(pairs)


def _bad_query(text: str) -> Malformed:
    return Malformed("kube.query", f"query: {text}")


def render_target(target: Target, *, prefix: bytes = b"") -> bytes:
    """The outbound target, made anew. `prefix` is the path of the cluster's URL."""
    path = b"".join(b"/" + _encode(segment.encode("ascii"), _PCHAR) for segment in target.segments) or b"/"
    if target.tail is not None:
        return prefix + path + target.tail
    pairs = [_encode(key.encode(), _UNRESERVED) + b"=" + _encode(value.encode(), _UNRESERVED) for key, value in target.query]
    return prefix + path + (b"?" + b"&".join(pairs) if pairs else b"")


def _encode(text: bytes, plain: frozenset[int]) -> bytes:
    return b"".join(bytes((byte,)) if byte in plain else b"%%%02X" % byte for byte in text)

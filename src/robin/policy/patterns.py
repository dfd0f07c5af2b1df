"""The one matcher of hosts, ports, methods and paths: for policy rules, provider endpoints, routes, explain and the check of files.

A pattern is parsed once, at load, and refused there with a code (`pattern_invalid`, `host_pattern_too_broad`). What it is compared with at
run time is canonical already: `canonical_host` and `canonical_path` raise for what has no canonical form. Rules may use `**` alone and any
suffix; provider profiles may not. The ranks are tuples: of two patterns that match, the greater one is the more specific.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from ipaddress import AddressValueError, IPv4Address, IPv6Address
from typing import Final

HOST_OCTETS_MAX: Final = 253
PATTERN_OCTETS_MAX: Final = 1024

SHARED_SUFFIXES: Final = frozenset(
    "amazonaws.com amazonaws.com.cn azure.com azurecontainerapps.io azurefd.net cloudapp.azure.com cloudapp.net cluster.local "
    "core.windows.net elb.amazonaws.com googleusercontent.com ngrok.app pod.cluster.local storage.googleapis.com svc.cluster.local "
    "trafficmanager.net windows.net".split()
)
"""Names under which strangers have names, beside those of the public suffix list (`config/public_suffixes.py`).

A wildcard of a provider profile may not stand directly before one of them.
"""

IsShared = Callable[[str], bool]

_LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?")
_NUMERIC = re.compile(r"[0-9]+|0x[0-9a-f]*")
_ESCAPE = re.compile(rb"%(?:([0-9A-Fa-f]{2}))?")
_UNRESERVED: Final = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")
_NEVER_IN_PATH = re.compile(rb"[\x00-\x20\x7f-\xff\\;]|%(?:00|0[1-9A-F]|1[0-9A-F]|5C|7F)")
_METHOD = re.compile(r"[A-Z][A-Z0-9!#$%&'*+.^_`|~-]{0,31}")
_GLOB_CHARACTERS = re.compile(r"[?\[\]{}]")


class PatternError(ValueError):
    """A pattern in a file that is refused. `code` is `pattern_invalid` or `host_pattern_too_broad`; the text says what to write."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(text)
        self.code = code


class NotCanonical(ValueError):
    """A host or a path of a request that has no canonical form; the text is a reason word, without any of the input."""


class HostKind(IntEnum):
    """What the left-most label of a host pattern is. The number is the first part of the rank."""

    MANY = 1  # `**.S`: one label or more, never S itself; or `**` alone
    ONE = 2  # `*.S` or `p*q.S`
    EXACT = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class HostPattern:
    """`text` is canonical. Of a wildcard, `suffix` is `.S` (empty for `**` alone); `before` and `after` stand around the `*`."""

    text: str
    kind: HostKind
    suffix: str = ""
    before: str = ""
    after: str = ""

    def matches(self, host: str) -> bool:
        """Whether a canonical host matches. A name of one label and an address match only their own, exact pattern."""
        if self.kind is HostKind.EXACT:
            return host == self.text
        if not host.endswith(self.suffix) or is_address(host):
            return False
        head = host[: len(host) - len(self.suffix)]
        if self.kind is HostKind.MANY:
            return bool(head) and (bool(self.suffix) or "." in head)
        return (
            bool(head)
            and "." not in head
            and len(head) >= len(self.before) + len(self.after)
            and head.startswith(self.before)
            and head.endswith(self.after)
        )

    @property
    def rank(self) -> tuple[int, int, int]:
        """Kind, then the number of labels that are literal, then of literal characters (dots left out)."""
        if self.kind is HostKind.EXACT:
            return int(self.kind), 1 if ":" in self.text else self.text.count(".") + 1, len(self.text.replace(".", ""))
        return int(self.kind), self.suffix.count("."), len(self.suffix.replace(".", "")) + len(self.before) + len(self.after)


@dataclass(frozen=True, slots=True, kw_only=True)
class PathPattern:
    """`text` is canonical, empty for any path. `blocks` are what `**` separates: segments, and a segment is its parts between `*`."""

    text: str
    blocks: tuple[tuple[tuple[str, ...], ...], ...] = ()

    @property
    def is_any(self) -> bool:
        """Whether every path matches."""
        return not self.blocks

    def matches(self, path: str) -> bool:
        """Whether a canonical path (or `*`, which only `any` matches) matches."""
        if self.is_any:
            return True
        if path[:1] != "/":
            return False
        segments = path[1:].split("/")
        first, last = self.blocks[0], self.blocks[-1]
        if len(self.blocks) == 1:
            return len(segments) == len(first) and _block_matches(first, segments, 0)
        if sum(map(len, self.blocks)) > len(segments) or not _block_matches(first, segments, 0):
            return False
        end = len(segments) - len(last)
        if not _block_matches(last, segments, end):
            return False
        at = len(first)
        for block in self.blocks[1:-1]:  # blocks have a fixed number of segments, so the earliest place that fits is as good as any
            while at + len(block) <= end and not _block_matches(block, segments, at):
                at += 1
            at += len(block)
        return at <= end

    @property
    def rank(self) -> tuple[int, int, int, int]:
        """Without wildcard 3, with 2, any 0; then the longer literal prefix, then more literal characters, then fewer `*`."""
        if self.is_any:
            return 0, 0, 0, 0
        stars = self.text.count("*")
        return 2 if stars else 3, len(self.text.partition("*")[0]), len(self.text) - stars, -stars


def _block_matches(block: Sequence[tuple[str, ...]], segments: Sequence[str], at: int) -> bool:
    return all(text_matches(parts, segments[at + index]) for index, parts in enumerate(block))


def text_matches(parts: Sequence[str], text: str) -> bool:
    """Whether a text has these parts, any text between two of them. Its time does not depend on where they could stand otherwise."""
    first, last = parts[0], parts[-1]
    if len(parts) == 1:
        return text == first
    end = len(text) - len(last)
    if len(first) > end or not text.startswith(first) or not text.endswith(last):
        return False
    at = len(first)
    for part in parts[1:-1]:
        found = text.find(part, at, end)
        if found < 0:
            return False
        at = found + len(part)
    return True


@dataclass(frozen=True, slots=True, kw_only=True)
class Methods:
    """`names` None is any method."""

    names: frozenset[str] | None = None

    def matches(self, method: str) -> bool:
        """Whether the method is one of them."""
        return self.names is None or method in self.names

    @property
    def rank(self) -> tuple[int, int]:
        """Listed 1, any 0; then fewer methods."""
        return (0, 0) if self.names is None else (1, -len(self.names))

    def __str__(self) -> str:
        return "*" if self.names is None else " ".join(sorted(self.names))


ANY_PATH: Final = PathPattern(text="")
ANY_METHOD: Final = Methods()

Rank = tuple[int, ...]


def rank(host: HostPattern, path: PathPattern = ANY_PATH, methods: Methods = ANY_METHOD, *, override: bool = False) -> Rank:
    """How specific a candidate is, left to right: host, path, method, override before base. The greater one wins."""
    return (*host.rank, *path.rank, *methods.rank, int(override))


def parse_host_pattern(text: str, *, rule: bool = False, is_shared: IsShared = SHARED_SUFFIXES.__contains__) -> HostPattern:
    """A host pattern of a file; letters outside ASCII are accepted and become A-labels. Raises PatternError.

    `rule`: of a policy rule, which may be `**` and may have any suffix; else of a provider profile or of another place that names a host,
    whose suffix may not be one for which `is_shared` holds.
    """
    if not text or len(text) > PATTERN_OCTETS_MAX:
        raise PatternError("pattern_invalid", "a host pattern has 1 to 253 octets")
    if "/" in text:
        raise PatternError("pattern_invalid", "a host has neither scheme nor path; leave out https:// and all from the next / on")
    if "*" not in text:
        return HostPattern(text=configured_host(text), kind=HostKind.EXACT)
    if _GLOB_CHARACTERS.search(text) or ":" in text:
        raise PatternError("pattern_invalid", "`?`, `[`, `]`, `{` and `}` are no wildcards, and a host pattern has no port")
    text = text.lower()
    if text in {"**", "**."}:
        if not rule:
            raise PatternError("host_pattern_too_broad", "`**` alone is for policy rules; name the host or a suffix of two labels or more")
        return HostPattern(text="**", kind=HostKind.MANY)
    label, dot, suffix = text.partition(".")
    if not dot or not suffix or "*" in suffix:
        raise PatternError("pattern_invalid", "a wildcard stands in the left-most label only, before a suffix: `*.S`, `**.S` or `p*q.S`")
    suffix = configured_host(suffix)
    if is_address(suffix):
        raise PatternError("pattern_invalid", "an address has no wildcard")
    if not rule:
        _check_suffix(suffix, is_shared)
    if label == "**":
        return HostPattern(text=f"**.{suffix}", kind=HostKind.MANY, suffix=f".{suffix}")
    before, _, after = label.partition("*")
    if "*" in after or _LABEL.fullmatch(f"{before}0{after}") is None:
        raise PatternError("pattern_invalid", "a label has one `*`, and else letters, digits, `-` and `_`")
    return HostPattern(text=f"{label}.{suffix}", kind=HostKind.ONE, suffix=f".{suffix}", before=before, after=after)


def _check_suffix(suffix: str, is_shared: IsShared) -> None:
    if "." not in suffix:
        raise PatternError("host_pattern_too_broad", f"the suffix `{suffix}` has one label; at least two are needed after a wildcard")
    if is_shared(suffix):
        raise PatternError("host_pattern_too_broad", f"strangers can register names under `{suffix}`; name the host or a longer suffix")


def parse_path_pattern(text: str) -> PathPattern:
    """A path pattern of a file; empty, `**` and `/**` are one value, any. Raises PatternError."""
    if text in {"", "**", "/**"}:
        return ANY_PATH
    if len(text) > PATTERN_OCTETS_MAX or text[:1] != "/":
        raise PatternError("pattern_invalid", "a path pattern starts with `/` and has at most 1024 characters")
    if _GLOB_CHARACTERS.search(text) or "#" in text:
        raise PatternError(
            "pattern_invalid", "`?`, `[`, `]`, `{`, `}` and `#` have no place in a path pattern; the query is no part of the path"
        )
    try:
        text = canonical_path(text.encode("utf-8"), allow_encoded_slash=True)
    except NotCanonical as error:
        raise PatternError("pattern_invalid", f"no request can have this path ({error}): it is refused before rules are compared") from None
    blocks: list[list[tuple[str, ...]]] = [[]]
    written: list[str] = []
    for segment in text[1:].split("/"):
        if segment == "**":
            if written[-1:] != ["**"]:  # twice in a row means the same
                blocks.append([])
                written.append(segment)
        elif "**" in segment:
            raise PatternError("pattern_invalid", "`**` is a whole segment")
        else:
            blocks[-1].append(tuple(segment.split("*")))
            written.append(segment)
    if written == ["**"]:
        return ANY_PATH
    return PathPattern(text="/" + "/".join(written), blocks=tuple(map(tuple, blocks)))


def is_method(name: str) -> bool:
    """Whether a rule can name this method."""
    return _METHOD.fullmatch(name) is not None


def parse_methods(names: Iterable[str]) -> Methods:
    """The methods of a file, in upper case; none, or `*` alone, is any. Raises PatternError."""
    listed = frozenset(names)
    if not listed or listed == {"*"}:
        return ANY_METHOD
    for name in sorted(listed):
        if not is_method(name) or name == "*":
            raise PatternError("pattern_invalid", f"`{name[:40]}` is no method; write upper-case names, or `*` alone for any")
    return Methods(names=listed)


def parse_ports(ports: Iterable[int], *, default: Iterable[int] = ()) -> frozenset[int]:
    """The ports of a file, `default` if there are none. Raises PatternError."""
    listed = frozenset(ports) or frozenset(default)
    for port in sorted(listed):
        if not 1 <= port <= 65535:
            raise PatternError("pattern_invalid", f"{port} is no port; ports are 1 to 65535")
    return listed


def configured_host(text: str) -> str:
    """The canonical form of a host in a file: letters outside ASCII become A-labels (UTS 46). Raises PatternError."""
    try:
        return canonical_host(text if text.isascii() else _to_a_labels(text))
    except NotCanonical as error:
        raise PatternError("pattern_invalid", f"this is no host name and no address ({error})") from None


def _to_a_labels(text: str) -> str:
    import idna  # noqa: PLC0415 - 300 KiB of tables, needed only for a name that is not ASCII

    try:
        return idna.encode(text, uts46=True).decode("ascii")
    except (idna.IDNAError, UnicodeError):
        raise NotCanonical("idna") from None


def canonical_host(text: str) -> str:
    """Lower case, without one final dot; IPv4 as four decimals, IPv6 compressed and without brackets. Raises NotCanonical.

    Refused are forms that another program might read as an address (`127.1`, `0x7f.1`, `2130706433`), zones and all that is not ASCII.
    """
    if not text.isascii():
        raise NotCanonical("not_ascii")
    if text[:1] == "[" and text[-1:] == "]":
        return _canonical_ipv6(text[1:-1])
    if ":" in text:
        return _canonical_ipv6(text)
    name = text.lower().removesuffix(".")
    if not name or len(name) > HOST_OCTETS_MAX:
        raise NotCanonical("length")
    labels = name.split(".")
    if _NUMERIC.fullmatch(labels[-1]):
        try:
            return str(IPv4Address(text))
        except AddressValueError:
            raise NotCanonical("numeric") from None
    if not all(map(_LABEL.fullmatch, labels)):
        raise NotCanonical("label")
    return name


def _canonical_ipv6(text: str) -> str:
    if "%" in text:
        raise NotCanonical("zone")
    try:
        return str(IPv6Address(text))
    except AddressValueError:
        raise NotCanonical("ipv6") from None


def is_address(host: str) -> bool:
    """Whether a canonical host is an address and no name."""
    return ":" in host or (host[-1:].isdigit() and _NUMERIC.fullmatch(host.rpartition(".")[2]) is not None)


def is_loopback(host: str) -> bool:
    """Whether a canonical host is `localhost` or a loopback address. An IPv4 address inside of an IPv6 one is none."""
    if host in {"localhost", "::1"}:
        return True
    return is_address(host) and ":" not in host and IPv4Address(host).is_loopback


def canonical_path(path: bytes, *, allow_encoded_slash: bool = False) -> str:
    """The form in which a path (without its query) is compared: unreserved octets decoded, hex digits in upper case. Raises NotCanonical.

    Refused: dot segments, also encoded; `%2F` unless allowed; `\\`, `;`, controls and octets above 0x7E, also encoded where a server might
    act on them; bad escapes; empty segments, except the last.
    """
    if path[:1] != b"/":
        raise NotCanonical("no_slash")
    text = _ESCAPE.sub(_decode_unreserved, path)
    if _NEVER_IN_PATH.search(text):
        raise NotCanonical("octet")
    if b"%2F" in text and not allow_encoded_slash:
        raise NotCanonical("encoded_slash")
    segments = text.split(b"/")[1:]
    if b"" in segments[:-1]:
        raise NotCanonical("empty_segment")
    if b"." in segments or b".." in segments:
        raise NotCanonical("dot_segment")
    return text.decode("ascii")


def _decode_unreserved(escape: re.Match[bytes]) -> bytes:
    if escape[1] is None:
        raise NotCanonical("bad_escape")
    octet = int(escape[1], 16)
    return bytes((octet,)) if octet in _UNRESERVED else escape[0].upper()

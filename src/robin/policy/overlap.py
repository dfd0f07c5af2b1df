"""What the check of a configuration asks of two bindings: do they overlap, and where; and is one inside the other. Pure.

A witness is one concrete request that both match. `covers` is sound and not complete: where it says yes, every request of the inner one is
inside the outer one.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations, product
from typing import Final

from robin.policy.callers import callers_meet
from robin.policy.patterns import HostKind, HostPattern, Methods, PathPattern
from robin.policy.select import Binding

_FILLER: Final = "x"
_METHODS: Final = ("GET", "POST", "HEAD", "PUT", "PATCH", "DELETE", "OPTIONS")


@dataclass(frozen=True, slots=True, kw_only=True)
class Overlap:
    """Two bindings that one request matches; `witness` is that request, as a method and a URL. `first` is more specific, if one is."""

    first: Binding
    second: Binding
    witness: str


def find_overlaps(bindings: Sequence[Binding]) -> Iterator[Overlap]:
    """Yield every pair that writes the same field and overlaps."""
    for first, second in _candidates(bindings):
        if witness := find_witness(first, second):
            ordered = (second, first) if second.rank > first.rank else (first, second)
            yield Overlap(first=ordered[0], second=ordered[1], witness=witness)


def _candidates(bindings: Sequence[Binding]) -> Iterator[tuple[Binding, Binding]]:
    """The pairs of one field, scheme and port whose hosts could meet: of two exact ones only the same. There may be thousands."""
    places = [(one.field, one.scheme, one.port) for one in bindings]
    exact: dict[tuple[str, str, int, str], list[int]] = {}
    wild: list[int] = []
    for at, one in enumerate(bindings):
        if one.host.kind is HostKind.EXACT:
            exact.setdefault((*places[at], one.host.text), []).append(at)
        else:
            wild.append(at)
    for at, first in enumerate(bindings):
        near: Iterable[int] = range(at + 1, len(bindings))
        if first.host.kind is HostKind.EXACT:
            near = sorted([*exact[(*places[at], first.host.text)], *wild])
        for other in near:
            if other > at and places[other] == places[at]:
                yield first, bindings[other]


def find_shared(bindings: Sequence[Binding]) -> Iterator[tuple[Binding, Binding, str, str]]:
    """Yield pairs of which a request could get both, with a field that both write and that request.

    Two that write the same field first are not among them: a request gets only one of those.
    """
    writers: dict[str, dict[str, list[Binding]]] = {}  # by the name of a field, and by the field that the binding is selected for
    for name in {name for one in bindings for name in one.fields - {one.field}}:
        for one in bindings:
            if name in one.fields:
                writers.setdefault(name, {}).setdefault(one.field, []).append(one)
    for name, groups in sorted(writers.items()):
        for first, second in combinations(groups.values(), 2):
            for one, other in product(first, second):
                if witness := find_witness(one, other):
                    yield one, other, name, witness


def is_ambiguous(overlap: Overlap) -> bool:
    """Whether neither wins, and it matters which one does."""
    return overlap.first.rank == overlap.second.rank and overlap.first.same != overlap.second.same


def is_partial(overlap: Overlap) -> bool:
    """Whether one wins in a part of the other that its file does not show: neither is inside the other."""
    first, second = overlap.first, overlap.second
    return first.same != second.same and first.rank != second.rank and not _inside(first, second) and not _inside(second, first)


def _inside(inner: Binding, outer: Binding) -> bool:
    return not uncovered(inner.host, inner.port, inner.path, inner.methods, outer)


def uncovered(host: HostPattern, port: int, path: PathPattern, methods: Methods, outer: Binding) -> str:
    """What of a set of requests is not inside the binding `outer`, in words; "" if all of it is."""
    if not covers_host(outer.host, host):
        return f"host {host.text}"
    if outer.port != port:
        return f"port {port}"
    if not covers_path(outer.path, path):
        return f"path {path.text or '/**'}"
    if outer.methods.names is None:
        return ""
    if methods.names is None:
        return "methods *"
    more = sorted(methods.names - outer.methods.names)
    return f"methods {' '.join(more)}" if more else ""


def find_witness(one: Binding, other: Binding) -> str:
    """A request that both match, `GET https://host:port/path`; "" if there is none."""
    if one.scheme != other.scheme or one.port != other.port:
        return ""
    if not any(callers_meet(first, second) for first in one.callers for second in other.callers):
        return ""
    host = witness_host(one.host, other.host)
    method = _witness_method(one.methods, other.methods)
    path = witness_path(one.path, other.path)
    if not host or not method or path is None:
        return ""
    name = f"[{host}]" if ":" in host else host
    return f"{method} {one.scheme}://{name}:{one.port}{path}"


def _witness_method(one: Methods, other: Methods) -> str:
    if one.names is None and other.names is None:
        return _METHODS[0]
    names = (one.names or other.names or frozenset()) & (other.names or one.names or frozenset())
    return next((name for name in _METHODS if name in names), min(names, default=""))


def witness_host(one: HostPattern, other: HostPattern) -> str:
    """A host that both match; "" if there is none."""
    longer = one if len(one.suffix) >= len(other.suffix) else other
    before = max(one.before, other.before, key=len)
    after = max(one.after, other.after, key=len)
    for host in (one.text, other.text, (before + after or _FILLER) + longer.suffix, f"{before}{_FILLER}{after}{longer.suffix}"):
        if "*" not in host and one.matches(host) and other.matches(host):
            return host
    return ""


def covers_host(outer: HostPattern, inner: HostPattern) -> bool:
    """Whether every host of `inner` is one of `outer`."""
    if inner.kind is HostKind.EXACT:
        return outer.matches(inner.text)
    if outer.kind is HostKind.EXACT:
        return False
    if outer.kind is HostKind.MANY:
        return inner.suffix.endswith(outer.suffix)
    if inner.kind is HostKind.MANY or inner.suffix != outer.suffix:
        return False
    return inner.before.startswith(outer.before) and inner.after.endswith(outer.after)


def witness_path(one: PathPattern, other: PathPattern) -> str | None:
    """A canonical path that both match; None if there is none."""
    segments = _align(_segments(one), _segments(other), "**", _meet_segments)
    return None if segments is None else "/" + "/".join(segments)


def covers_path(outer: PathPattern, inner: PathPattern) -> bool:
    """Whether every path of `inner` is one of `outer`."""
    return outer.is_any or (not inner.is_any and _within(_segments(inner), _segments(outer), "**", _within_segment))


def _segments(pattern: PathPattern) -> tuple[str, ...]:
    return ("**",) if pattern.is_any else tuple(pattern.text[1:].split("/"))


def _meet_segments(one: str, other: str) -> str | None:
    """A segment that both match, not an empty one if there is a choice; None if there is none."""
    if "*" not in one and "*" not in other:
        return one if one == other else None
    found = _align(one, other, "*", lambda first, second: first if first == second else None)
    return None if found is None else "".join(found) or (_FILLER if one == other == "*" else "")


def _align(one: Sequence[str], other: Sequence[str], star: str, meet: Callable[[str, str], str | None]) -> list[str] | None:
    """Elements that both sequences match, where `star` is any number of elements; None if there are none.

    `meets[i][j]`: the rest of `one` from i and the rest of `other` from j can be the same. Filled from the end, without recursion.
    """
    meets = [[False] * (len(other) + 1) for _ in range(len(one) + 1)]
    for i in range(len(one), -1, -1):
        for j in range(len(other), -1, -1):
            meets[i][j] = _steps(one, other, i, j, star, meet, meets) is not None
    if not meets[0][0]:
        return None
    found: list[str] = []
    at = (0, 0)
    while at != (len(one), len(other)):
        step = _steps(one, other, *at, star, meet, meets)
        assert step is not None
        at, element = step
        found += element
    return found


def _steps(
    one: Sequence[str], other: Sequence[str], i: int, j: int, star: str, meet: Callable[[str, str], str | None], meets: list[list[bool]]
) -> tuple[tuple[int, int], list[str]] | None:
    """The next step from (i, j) and the element that it writes; None if there is none that leads to the end."""
    if i == len(one) and j == len(other):
        return (i, j), []
    first = one[i] if i < len(one) else None
    second = other[j] if j < len(other) else None
    if first == star and meets[i + 1][j]:
        return (i + 1, j), []
    if second == star and meets[i][j + 1]:
        return (i, j + 1), []
    if first == star and second is not None and meets[i][j + 1]:
        return (i, j + 1), [meet(second, "*") or second] if star == "**" else [second]
    if second == star and first is not None and meets[i + 1][j]:
        return (i + 1, j), [meet(first, "*") or first] if star == "**" else [first]
    if first is None or second is None or star in (first, second) or not meets[i + 1][j + 1]:
        return None
    element = meet(first, second)
    return None if element is None else ((i + 1, j + 1), [element])


def _within(inner: Sequence[str], outer: Sequence[str], star: str, within: Callable[[str, str], bool]) -> bool:
    """Whether `outer` takes all that `inner` can be; a star of `inner` needs one of `outer`."""
    rest = [False] * len(inner) + [True]  # for an empty rest of `outer`: only an empty rest of `inner`
    for element in reversed(outer):
        row = [False] * (len(inner) + 1)
        for i in range(len(inner), -1, -1):
            if element == star:
                row[i] = rest[i] or (i < len(inner) and row[i + 1])
            else:
                row[i] = i < len(inner) and inner[i] != star and within(inner[i], element) and rest[i + 1]
        rest = row
    return rest[0]


def _within_segment(inner: str, outer: str) -> bool:
    if "*" not in outer:
        return inner == outer
    return _within(inner, outer, "*", lambda first, second: first == second)

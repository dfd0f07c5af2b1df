"""What a request body says about its tier and its scope: pod fields that raise the tier, the name, the leaves that a patch changes.

Rules a reader must keep: every duplicate of a key counts, whatever its case, since decoders differ in which one they take. A body that is
not certainly read (protobuf, CBOR, YAML with an alias, a tag or a merge key, invalid JSON) is unreadable, and unreadable is grave.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final, NoReturn, TypeGuard

JSON_PATCH: Final = "application/json-patch+json"
APPLY: Final = "application/apply-patch+yaml"
_READABLE: Final = frozenset(
    {"application/json", "application/merge-patch+json", "application/strategic-merge-patch+json", JSON_PATCH, "application/yaml", APPLY}
)
_YAML: Final = frozenset({"application/yaml", APPLY})
_YAML_BYTES_MAX: Final = 262144
MERGE_KEY: Final = "<<"
_PARTS_MAX: Final = 100_000  # of a body: to read more would hold all other requests
_PATH_MAX: Final = 4096
_PATH_PARTS_MAX: Final = 100
_PATHS_PARTS_MAX: Final = 20_000  # of all operations of a patch

Weigh = Callable[[str, object, bool], int]
"""The tier that a member demands: its name in lower case, its value, and whether inspection is strict; 0 for none."""


class Members(tuple[tuple[str, object], ...]):
    """The members of an object in order, duplicates included."""

    __slots__ = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Body:
    """`content` is None where the body is unreadable, or there is none. `content_type` has no parameters."""

    content_type: str
    content: object | None
    present: bool = True

    @property
    def readable(self) -> bool:
        """Whether the body was read with certainty."""
        return self.content is not None


NO_BODY: Final = Body(content_type="", content=None, present=False)


def read_body(octets: bytes, content_type: str) -> Body:
    """Read a body of a type that is known."""
    kind = content_type.partition(";")[0].strip().lower()
    if kind not in _READABLE:
        return Body(content_type=kind, content=None)
    try:
        return Body(content_type=kind, content=_read(octets, kind))
    except (ValueError, RecursionError):
        return Body(content_type=kind, content=None)


def _read(octets: bytes, kind: str) -> object:
    if octets.count(b",") + octets.count(b"[") + octets.count(b"{") > _PARTS_MAX:
        raise ValueError("too many parts")
    text = octets.decode("utf-8")
    try:
        return json.loads(text, object_pairs_hook=_members_of_yaml if kind in _YAML else Members, parse_constant=_refuse)
    except ValueError:
        if kind not in _YAML or len(octets) > _YAML_BYTES_MAX:
            raise
    from robin.policy.kube.yaml_body import read_yaml_body  # noqa: PLC0415 - PyYAML is loaded for the first body that needs it

    return read_yaml_body(text)


def _members_of_yaml(pairs: list[tuple[str, object]]) -> Members:
    """Raises ValueError for a merge key: it puts the members of its value in this object."""
    if any(key == MERGE_KEY for key, _ in pairs):
        raise ValueError("a merge key")
    return Members(pairs)


def _refuse(_word: str) -> NoReturn:
    raise ValueError


@dataclass(frozen=True, slots=True, kw_only=True)
class Raise:
    """The tier that a body demands, and the field that demands it; 0 and an empty text for none."""

    tier: int
    reason: str


def raised_tier(body: Body, mode: str, weigh: Weigh) -> Raise:
    """`mode` is `tiers.inspect_bodies`: strict, host or off. `weigh` is that of the resource (`policy.kube.grave_fields`)."""
    if mode == "off":
        return Raise(tier=0, reason="")
    if not body.readable:
        return Raise(tier=4, reason="the body cannot be read with certainty")
    content: object = body.content
    if body.content_type == JSON_PATCH:
        content = _patched(content)
        if content is None:
            return Raise(tier=4, reason="the JSON patch cannot be read with certainty")
    found = Raise(tier=0, reason="")
    for key, value in _members(content):
        tier = weigh(key.lower(), value, mode == "strict")
        if tier > found.tier:
            found = Raise(tier=tier, reason=f"body sets {key[:64]}")
    return found


def _patched(content: object) -> list[object] | None:
    """The operations of a JSON patch as the nested values that they set; None where that is not certain."""
    if not isinstance(content, list):
        return None
    values, parts = [], 0
    for operation in content:
        members = _single(operation)
        if members is None or not isinstance(path := members.get("path"), str) or not isinstance(kind := members.get("op"), str):
            return None
        parts += path.count("/")
        if len(path) > _PATH_MAX or path.count("/") > _PATH_PARTS_MAX or parts > _PATHS_PARTS_MAX:
            return None
        if kind in ("remove", "test"):
            continue
        if kind not in ("add", "replace") or "value" not in members:
            return None
        value = members["value"]
        for part in reversed(path.split("/")[1:]):
            word = part.replace("~1", "/").replace("~0", "~")
            value = [value] if word.isdigit() or word == "-" else Members(((word, value),))
        values.append(value)
    return values


def _single(value: object) -> dict[str, object] | None:
    """An object without duplicate members as a dict."""
    if not isinstance(value, Members):
        return None
    members = dict(value)
    return members if len(members) == len(value) else None


def _members(value: object) -> Iterator[tuple[str, object]]:
    """Every member at any depth."""
    waiting = [value]
    while waiting:
        one = waiting.pop()
        if isinstance(one, Members):
            yield from one
            waiting += [inner for _key, inner in one]
        elif isinstance(one, list):
            waiting += one


def object_name(body: Body) -> str:
    """`metadata.name` of an object; empty where it is not there, or not certain."""
    metadata = _get(body.content, "metadata")
    name = _get(metadata, "name")
    return name if isinstance(name, str) else ""


def _get(value: object, key: str) -> object:
    """The one member of that name; None where there is none, or several in any case."""
    if not isinstance(value, Members):
        return None
    found = [inner for name, inner in value if name.lower() == key]
    return found[0] if len(found) == 1 and any(name == key for name, _ in value) else None


def changed_paths(body: Body) -> list[str] | None:
    """JSON pointers of all that a patch or an object sets; None where that is not certain. An apply-patch is never certain."""
    if not body.readable or body.content_type in _YAML:
        return None
    if body.content_type != JSON_PATCH:
        try:
            return list(_leaves(body.content, "")) if _has_no_duplicates(body.content) else None
        except (RecursionError, ValueError):
            return None
    if not isinstance(body.content, list):
        return None
    paths = []
    for operation in body.content:
        members = _single(operation)
        if members is None or members.get("op") not in ("add", "replace") or not isinstance(path := members.get("path"), str):
            return None
        paths.append(path)
    return paths


def _has_no_duplicates(value: object) -> bool:
    if isinstance(value, Members):
        return len({key.lower() for key, _ in value}) == len(value) and all(_has_no_duplicates(inner) for _, inner in value)
    return not _is_list(value) or all(_has_no_duplicates(inner) for inner in value)


def _is_list(value: object) -> TypeGuard[list[object]]:
    return isinstance(value, list)


def _leaves(value: object, at: str) -> Iterator[str]:
    """The pointers of leaves. Raises ValueError for one that is longer than any that a runbook could list."""
    if len(at) > _PATH_MAX:
        raise ValueError("a pointer is too long")
    if isinstance(value, Members) and value:
        for key, inner in value:
            yield from _leaves(inner, f"{at}/{key.replace('~', '~0').replace('/', '~1')}")
    elif isinstance(value, list) and value:
        for index, inner in enumerate(value):
            yield from _leaves(inner, f"{at}/{index}")
    else:
        yield at

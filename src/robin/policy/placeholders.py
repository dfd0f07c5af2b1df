"""Placeholders: what a client may send where it would send a credential that it does not have. Pure.

A placeholder is replaced only where its own credential is written, and only if it stands in a field that is never forwarded as it came:
so nothing that a client sends decides where a token is written. Every other place (another host, path, field, or the target itself) refuses
the request: a program that sends what it takes for a key to a place where the key does not belong is wrong, or was told to.
Looked at are the target and the values of all fields, those of the scheme Basic decoded too; not bodies, trailers and tunnels.
"""

import binascii
import re
from collections.abc import Iterable
from typing import Final
from urllib.parse import unquote_to_bytes

from robin.model.message import RequestHead
from robin.policy.select import Binding, Selection

GRAMMAR: Final = re.compile(r"[A-Za-z0-9._~-]{12,128}")
"""Characters that mean the same in a field, a URL and a file; long enough to be in no other value by chance."""
_FOR_US: Final = b"proxy-authorization"  # the credential of the caller at this proxy: it ends here
_BASIC: Final = re.compile(rb"basic[ \t]+([A-Za-z0-9+/_-]+)=*", re.IGNORECASE)


class Placeholders:
    """Those of one generation. `not_forwarded`: the fields that are stripped from every request, whatever they hold."""

    __slots__ = ("_labels", "_not_forwarded", "_pattern")

    def __init__(self, bindings: Iterable[Binding], *, not_forwarded: frozenset[bytes]) -> None:
        self._labels: dict[bytes, list[Binding]] = {}
        for binding in bindings:
            if binding.placeholder:
                self._labels.setdefault(binding.placeholder.encode("ascii"), []).append(binding)
        longest_first = sorted(self._labels, key=lambda octets: (-len(octets), octets))
        self._pattern = re.compile(b"|".join(map(re.escape, longest_first))) if longest_first else None
        self._not_forwarded = not_forwarded

    @property
    def none(self) -> bool:
        """Whether no credential has one."""
        return self._pattern is None

    def misuse(self, head: RequestHead, selection: Selection, callers: frozenset[str], written: frozenset[str]) -> str:
        """Where a placeholder stands that is not replaced there, as a reason word and a sentence; "" if there is none.

        `callers`: the patterns of providers that the caller matches, `written` the fields that these providers can write.
        """
        pattern = self._pattern
        if pattern is None:
            return ""
        target = head.target + b"\n" + unquote_to_bytes(head.target) if b"%" in head.target else head.target
        if (found := pattern.search(target)) is not None:
            return f"target: {self._name(found[0], callers)} stands in the URL, and credentials are written into header fields only"
        values = head.field_values
        if pattern.search(b"\n".join(values)) is None and not any(map(_BASIC.match, values)):
            return ""
        replaced = {binding.placeholder.encode("ascii") for binding in selection.bindings}
        for name, value in zip(head.names, values, strict=True):
            if name == _FOR_US:
                continue
            stripped = name in self._not_forwarded or name.decode("latin-1") in written
            for octets in pattern.findall(value) + pattern.findall(_decoded(value)):
                if octets not in replaced:
                    return f"place: {self._name(octets, callers)} is not replaced at this place, and was sent in {name.decode('latin-1')}"
                if not stripped:
                    return f"field: {self._name(octets, callers)} is not replaced in the field {name.decode('latin-1')}"
        return ""

    def _name(self, octets: bytes, callers: frozenset[str]) -> str:
        """How the credential is called, for those that may use it."""
        labels = sorted({f"{one.provider}/{one.credential}" for one in self._labels[octets] if one.callers & callers})
        return f"the placeholder of {' and of '.join(labels)}" if labels else "a placeholder"


def _decoded(value: bytes) -> bytes:
    """What the scheme Basic holds (RFC 7617); b"" for anything else."""
    found = _BASIC.match(value)
    if found is None:
        return b""
    text = found[1].translate(bytes.maketrans(b"-_", b"+/"))
    try:
        return binascii.a2b_base64(text + b"=" * (-len(text) % 4))
    except binascii.Error:
        return b""

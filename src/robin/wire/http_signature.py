"""HTTP message signatures (RFC 9421) as WIMSE uses them: strict parsing of the two fields, the signature base, and rendering.

What differs from its own RFC 9651 serialization is refused, so that one meaning has one text. A component has no parameters here.
"""

import base64
import binascii
import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

TAG: Final = "wimse-workload-to-workload"
LABEL: Final = "wimse"
WIT_FIELD: Final = "workload-identity-token"
COVERED_IF_PRESENT: Final = ("content-type", "content-digest", "authorization", "txn-token", WIT_FIELD)

_KEY: Final = re.compile(r"[a-z*][a-z0-9_.*-]*")
_INTEGER: Final = re.compile(r"-?(0|[1-9][0-9]{0,14})(?![0-9.])")
_STRING: Final = re.compile(r'"((?:[\x20-\x21\x23-\x5b\x5d-\x7e]|\\["\\])*)"')
_TOKEN: Final = re.compile(r"[A-Za-z*][A-Za-z0-9:/!#$%&'*+.^_`|~-]*")
_BINARY: Final = re.compile(r":([A-Za-z0-9+/]*={0,2}):")
_DIGESTS: Final = {"sha-256": hashlib.sha256, "sha-512": hashlib.sha512}

Item = int | str | bytes | bool
Params = tuple[tuple[str, Item], ...]


class BadField(ValueError):
    """A structured field that is not one, or not its own serialization."""


class Token(str):
    """A token of RFC 9651, unlike a string."""

    __slots__ = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class SignatureInput:
    """One member of Signature-Input: components in order, parameters in order, and both as the base's last line has them."""

    label: str
    components: tuple[str, ...]
    parameters: Params
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """What a base is built from. `fields`: lower-case name and trimmed value of each field line in order."""

    method: str
    scheme: str
    authority: str
    target: str
    fields: tuple[tuple[str, str], ...]


class _Reader:
    """Reads RFC 9651 from a text; each method raises BadField."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0

    def take(self, pattern: re.Pattern[str]) -> re.Match[str]:
        found = pattern.match(self.text, self.at)
        if found is None:
            raise BadField("not a structured field")
        self.at = found.end()
        return found

    def skip(self, char: str) -> bool:
        there = self.text.startswith(char, self.at)
        self.at += len(char) * there
        return there

    def item(self) -> Item:
        first = self.text[self.at : self.at + 1]
        if first == '"':
            return re.sub(r"\\(.)", r"\1", self.take(_STRING)[1])
        if first == ":":
            return parse_binary(self.take(_BINARY)[0])
        if first == "?":
            value = self.take(re.compile(r"\?([01])"))[1]
            return value == "1"
        if first and first in "-0123456789":
            return int(self.take(_INTEGER)[0])
        return Token(self.take(_TOKEN)[0])

    def parameters(self) -> Params:
        found: dict[str, Item] = {}
        while self.skip(";"):
            name = self.take(_KEY)[0]
            if name in found:
                raise BadField("a parameter twice")
            found[name] = self.item() if self.skip("=") else True
        return tuple(found.items())

    def inner_list(self) -> list[tuple[Item, Params]]:
        if not self.skip("("):
            raise BadField("not an inner list")
        found: list[tuple[Item, Params]] = []
        while not self.skip(")"):
            if found and not self.skip(" "):
                raise BadField("not an inner list")
            found.append((self.item(), self.parameters()))
        return found


def parse_signature_input(text: str) -> tuple[SignatureInput, ...]:
    """The members of Signature-Input. Raises BadField, also for a repeated label or component and a component with a parameter."""
    found: dict[str, SignatureInput] = {}
    reader = _Reader(text)
    while not found or reader.skip(", "):
        label = reader.take(_KEY)[0]
        if label in found or not reader.skip("="):
            raise BadField("a label twice, or without a value")
        began = reader.at
        members = reader.inner_list()
        names = tuple(name for name, _ in members if isinstance(name, str) and not isinstance(name, Token))
        if len(names) != len(members) or len(set(names)) != len(names) or any(parameters for _, parameters in members):
            raise BadField("a component twice, with a parameter, or not a string")
        parameters = reader.parameters()
        rendered = render_parameters(names, parameters)
        if rendered != text[began : reader.at]:
            raise BadField("not its own serialization")
        found[label] = SignatureInput(label=label, components=names, parameters=parameters, text=rendered)
    if reader.at != len(text):
        raise BadField("something behind it")
    return tuple(found.values())


def parse_binaries(text: str) -> dict[str, bytes]:
    """A dictionary of byte sequences, as Signature and Content-Digest are. Raises BadField."""
    found: dict[str, bytes] = {}
    reader = _Reader(text)
    while not found or reader.skip(", "):
        label = reader.take(_KEY)[0]
        if label in found or not reader.skip("="):
            raise BadField("a label twice, or without a value")
        found[label] = parse_binary(reader.take(_BINARY)[0])
    if reader.at != len(text):
        raise BadField("something behind it")
    return found


def parse_binary(text: str) -> bytes:
    """The octets of `:base64:`, which must be canonical."""
    try:
        octets = base64.b64decode(text[1:-1], validate=True)
    except (binascii.Error, ValueError):
        raise BadField("not base64") from None
    if render_binary(octets) != text:
        raise BadField("not its own serialization")
    return octets


def render_binary(octets: bytes) -> str:
    """A byte sequence of RFC 9651."""
    return f":{base64.b64encode(octets).decode('ascii')}:"


def render_parameters(components: Sequence[str], parameters: Params) -> str:
    """The covered components and parameters, as Signature-Input and the last line of the base have them."""
    return "(" + " ".join(_render(name) for name in components) + ")" + "".join(_render_parameter(*pair) for pair in parameters)


def build_base(message: Message, components: Sequence[str], text: str) -> bytes:
    """The signature base (RFC 9421 section 2.5). `text` is of `render_parameters`. Raises BadField where a component is missing."""
    lines = [f'"{name}": {component_value(message, name)}' for name in components]
    return "\n".join([*lines, f'"@signature-params": {text}']).encode("utf-8", "surrogateescape")


def component_value(message: Message, name: str) -> str:
    """The value of a component (RFC 9421 section 2). Raises BadField where it is missing or unknown."""
    if name.startswith("@"):
        path, question, query = message.target.partition("?")
        authority = normal_authority(message.authority, message.scheme)
        derived = {
            "@method": message.method,
            "@authority": authority,
            "@scheme": message.scheme,
            "@target-uri": f"{message.scheme}://{authority}{message.target}",
            "@request-target": message.target,
            "@path": path or "/",
            "@query": f"?{query}" if question else "?",
        }
        if name not in derived:
            raise BadField("an unknown derived component")
        return derived[name]
    values = [value for other, value in message.fields if other == name]
    if not values:
        raise BadField("a covered field is missing")
    return ", ".join(values)


def normal_authority(authority: str, scheme: str) -> str:
    """Lower case, without the default port of the scheme (RFC 9421 section 2.2.3)."""
    return authority.lower().removesuffix({"https": ":443", "http": ":80"}.get(scheme, "\n"))


def digest_matches(text: str, body: bytes) -> bool:
    """Whether every known digest of a Content-Digest value is that of the body, and there is a known one. Raises BadField."""
    digests = parse_binaries(text)
    known = [name for name in digests if name in _DIGESTS]
    return bool(known) and all(_DIGESTS[name](body).digest() == digests[name] for name in known)


def find(parameters: Params, name: str) -> Item | None:
    """The value of a parameter."""
    return dict(parameters).get(name)


def _render(value: Item) -> str:
    if isinstance(value, bool):
        return "?1" if value else "?0"
    if isinstance(value, bytes):
        return render_binary(value)
    if isinstance(value, int | Token):
        return str(value)
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _render_parameter(name: str, value: Item) -> str:
    return f";{name}" if value is True else f";{name}={_render(value)}"


def request_parameters(*, created: int, expires: int, nonce: str, audience: str) -> Params:
    """The parameters of a request that Robin signs."""
    return (("created", created), ("expires", expires), ("nonce", nonce), ("tag", TAG), ("wimse-aud", audience))


def field_values(fields: Sequence[tuple[str, str]], name: str) -> list[str]:
    """The values of every field line with this lower-case name."""
    return [value for other, value in fields if other == name]


def headers_of(values: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """Fields as lower-case pairs."""
    return tuple((name.lower(), value.strip(" \t")) for name, value in values.items())

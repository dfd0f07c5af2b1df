"""The shape of a section of robin.yaml as a value, from which both the reader and JSON Schema are made, so that a key is declared once.

A schema is a Scalar (one value of a Kind), a Sequence (a list), an Entries (a mapping from names of the user's choice) or a Mapping (known
keys).
"""

from collections.abc import Mapping as Dict
from dataclasses import dataclass, field
from typing import Union

from robin.config.parse import Form, Kind, parse_items

DIALECT = "https://json-schema.org/draft/2020-12/schema"
ENTRY_NAME = "^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$"
LONGEST_LIST = 4096
LONGEST_RULES = 16_384
"""Rules, which are the one list that programs write."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scalar:
    """A value of `kind`; `default` is text for its parser. `nullable`: `null` is a value too, the one that stands for none.

    `free`: it may also be empty or have several lines, as far as its kind allows.
    """

    kind: Kind
    default: str | None = None
    nullable: bool = False
    free: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Anything:
    """A value of any form, which is not looked at: keys of a file format of others, without an effect here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sequence:
    """A list of `item`."""

    item: "Schema"
    longest: int = LONGEST_LIST


@dataclass(frozen=True, slots=True, kw_only=True)
class Entries:
    """A mapping from names that match `name` to `value`."""

    value: "Schema"
    name: str = ENTRY_NAME
    longest: int = LONGEST_LIST


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """One key of a Mapping."""

    name: str
    schema: "Schema"
    help: str = ""
    required: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Mapping:
    """Exactly these keys; one that is not required may be left out. `elsewhere`: words tried here by mistake, and the path meant."""

    fields: tuple[Field, ...]
    nullable: bool = False
    elsewhere: Dict[str, str] = field(default_factory=dict, compare=False)


Schema = Union[Scalar, Anything, Sequence, Entries, Mapping]  # noqa: UP007 - the names of the classes stand in quotes above

Json = Dict[str, object]


def document_schema(schema: Schema, title: str) -> Json:
    """The JSON Schema (draft 2020-12) of `schema`. The reader refuses all that it refuses, and more, such as what is not a host name."""
    return {"$schema": DIALECT, "title": title, **_render(schema)}


def _render(schema: Schema) -> dict[str, object]:
    match schema:
        case Scalar():
            return _render_scalar(schema)
        case Anything():
            return {}
        case Sequence():
            return {"type": "array", "items": _render(schema.item), "maxItems": schema.longest}
        case Entries():
            properties = {"propertyNames": {"pattern": schema.name}, "additionalProperties": _render(schema.value)}
            return {"type": "object", **properties, "maxProperties": schema.longest}
        case Mapping():
            return _render_mapping(schema)


def _render_mapping(schema: Mapping) -> dict[str, object]:
    properties = {field.name: {**({"description": field.help} if field.help else {}), **_render(field.schema)} for field in schema.fields}
    required = [field.name for field in schema.fields if field.required]
    rendered: dict[str, object] = {"type": ["object", "null"] if schema.nullable else "object"}
    rendered |= {"properties": properties, "additionalProperties": False}
    return rendered | ({"required": required} if required else {})


def _render_scalar(schema: Scalar) -> dict[str, object]:
    form = schema.kind.form
    default = {} if schema.default is None else {"default": _json_default(schema.default, form)}
    if form.listed:
        return {"type": "array", "items": _render_form(form), "maxItems": LONGEST_LIST, **default}
    rendered = _render_form(form) | default
    return {"anyOf": [rendered, {"type": "null"}]} if schema.nullable else rendered


def _render_form(form: Form) -> dict[str, object]:
    rendered: dict[str, object] = {"type": form.types[0] if len(form.types) == 1 else list(form.types)}
    if form.choices:
        return rendered | {"enum": list(form.choices)}
    if "string" in form.types:
        rendered["pattern"] = form.pattern
    if form.lowest is not None:
        rendered["minimum"] = form.lowest
    if form.highest is not None:
        rendered["maximum"] = form.highest
    return rendered


def _json_default(text: str, form: Form) -> object:
    if form.listed:
        return [_json_value(item, form) for item in parse_items(text)]
    return _json_value(text, form)


def _json_value(text: str, form: Form) -> object:
    if form.types == ("boolean",):
        return text == "true"
    if form.types == ("integer",):
        return int(text)
    return text

"""The columns of an access record: each plane lists its own, in their order, with the way each is rendered.

What repeats from exchange to exchange (outcome, method, status) is rendered once per combination of values, together with the names: these
are the fixed parts of the line. What differs each time goes between them, by one f-string of the plane, which is the fastest way there is.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from json.encoder import encode_basestring_ascii as quote
from operator import attrgetter
from typing import Final

from robin.telemetry.record import ExchangeRecord

PATH_MAX: Final = 2048
_QUERY: Final = ord("?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """One field of the line. With `constant`, its value is this text; with `attribute`, it is an attribute of the record with few values.

    An attribute holds text, a whole number, a bool or None; a dotted name is an attribute of what the record holds. With neither of the
    two, the value differs from exchange to exchange, and `Columns.render` puts it in.
    """

    name: str
    constant: str = ""
    attribute: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Columns:
    """The columns of one plane.

    `render(parts, record, timestamp, identity)` returns the line: the parts, and between each two of them the JSON text of the next column
    whose value differs. `timestamp` is the text of the record's end; `identity` the JSON text that describes its token, or `null`.
    """

    columns: tuple[Column, ...]
    render: Callable[[tuple[str, ...], ExchangeRecord, str, str], str]

    @property
    def attributes(self) -> tuple[str, ...]:
        """The attributes whose values are in the fixed parts."""
        return tuple(column.attribute for column in self.columns if column.attribute)

    def render_parts(self, values: Sequence[object]) -> tuple[str, ...]:
        """The fixed parts of the line, for values that begin with those of `attributes`."""
        texts = iter([render_scalar(value) for value in values])
        parts, text = [], "{"
        for column in self.columns:
            text += f"{quote(column.name)}:"
            if column.attribute:
                text += next(texts)
            elif column.constant:
                text += quote(column.constant)
            else:
                parts.append(text)
                text = ""
            text += ","
        return (*parts, f"{text.removesuffix(',')}}}\n")


def read_attributes(names: Sequence[str]) -> Callable[[ExchangeRecord], tuple[object, ...]]:
    """A function that returns the values of these attributes (two or more) of a record, in one call of C."""
    read: Callable[[ExchangeRecord], tuple[object, ...]] = attrgetter(*names)
    return read


def render_scalar(value: object) -> str:
    """JSON text of a text, a whole number, a bool or None. Raises TypeError for anything else."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, str):
        return quote(value)
    raise TypeError(f"a column cannot hold {type(value).__name__}")


def render_path(path: bytes | None) -> str:
    """JSON text of a path, byte for byte, without a query, of at most PATH_MAX bytes; `null` for None."""
    if path is None:
        return "null"
    if _QUERY in path:  # as a number: `in` takes bytes by way of an exception
        path = path[: path.index(b"?")]
    return quote(path[:PATH_MAX].decode("latin-1"))

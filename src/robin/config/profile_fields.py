"""The forms of keys in provider profiles, for the schema of the file and for the keys that a grant kind has of its own."""

from typing import Final

from robin.config.parse import BOOLEAN, TEXT, Form, Kind, parse_text
from robin.config.schema import Anything, Field, Scalar, Schema, Sequence

FREE: Final = Kind(name="text", parse=parse_text, form=Form(pattern=""))
WORD: Final = Scalar(kind=TEXT)
ANYTHING: Final = Anything()


def text(name: str, help_text: str = "", *, required: bool = False, default: str = "") -> Field:
    """Required, or with a default that is not empty: some plain text on one line; else any text, "" by default."""
    schema = Scalar(kind=TEXT, default=default or None) if required or default else Scalar(kind=FREE, default="", free=True)
    return Field(name=name, schema=schema, help=help_text, required=required)


def flag(name: str, help_text: str = "") -> Field:
    """True or false; false by default."""
    return Field(name=name, schema=Scalar(kind=BOOLEAN, default="false"), help=help_text)


def listed(name: str, item: Schema, help_text: str = "", *, longest: int = 256) -> Field:
    """A list, empty by default."""
    return Field(name=name, schema=Sequence(item=item, longest=longest), help=help_text)


def ignored(*names: str) -> tuple[Field, ...]:
    """Keys of any form, without an effect."""
    return tuple(Field(name=name, schema=ANYTHING, help="no effect") for name in names)

"""Field and label selectors as kube-apiserver reads them when it derives the attributes of a request (apimachinery fields, labels)."""

import re
from typing import Final

_OPERATORS: Final = ("!=", "==", "=")
_NAME: Final = r"(?:(?:[A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])"
_KEY: Final = re.compile(r"(?:([a-z0-9](?:[-a-z0-9.]{0,251}[a-z0-9])?)/)?(" + _NAME + r")")
_VALUE: Final = re.compile(_NAME + "?")
_SET: Final = re.compile(r"\s*(\S+?)\s+(in|notin)\s*\(([^()]*)\)\s*")
_EQUALS: Final = re.compile(r"\s*([^\s=!<>(),]+)\s*(==|=|!=|>|<)\s*([^\s=!<>(),]*)\s*")
_EXISTS: Final = re.compile(r"\s*!?\s*([^\s=!<>(),]+)\s*")
_INT64: Final = re.compile(r"[+-]?[0-9]{1,40}")


class BadSelector(ValueError):
    """The selector does not parse."""


def required_name(selector: str) -> str | None:
    """The `metadata.name` that a field selector demands. Raises BadSelector."""
    found = None
    for term in _split_terms(selector):
        if not term:
            continue
        field, operator, value = _split_term(term)
        value = _unescape(value)
        if field == "metadata.name" and operator != "!=" and found is None:
            found = value
    return found


def _split_terms(selector: str) -> list[str]:
    terms, start, escaped = [], 0, False
    for at, character in enumerate(selector):
        if escaped:
            escaped = False
        elif character == "\\":
            escaped = True
        elif character == ",":
            terms.append(selector[start:at])
            start = at + 1
    return [*terms, selector[start:]]


def _split_term(term: str) -> tuple[str, str, str]:
    for at in range(len(term)):
        for operator in _OPERATORS:
            if term.startswith(operator, at):
                return term[:at], operator, term[at + len(operator) :]
    raise BadSelector


def _unescape(value: str) -> str:
    text, escaped = "", False
    for character in value:
        if escaped:
            if character not in "\\,=":
                raise BadSelector
            text, escaped = text + character, False
        elif character == "\\":
            escaped = True
        elif character in ",=":
            raise BadSelector
        else:
            text += character
    if escaped:
        raise BadSelector
    return text


def check_labels(selector: str) -> None:
    """Raise BadSelector unless a label selector parses."""
    rest = selector
    if not rest.strip():
        return
    for term in re.split(r",(?![^()]*\))", rest):
        found = _SET.fullmatch(term)
        if found is not None:
            key, values = found[1], [value.strip() for value in found[3].split(",")]
        elif (equal := _EQUALS.fullmatch(term)) is not None:
            key, values = equal[1], [equal[3]]
            if equal[2] in "<>" and _INT64.fullmatch(equal[3]) is None:
                raise BadSelector
        elif (exists := _EXISTS.fullmatch(term)) is not None:
            key, values = exists[1], []
        else:
            raise BadSelector
        name = _KEY.fullmatch(key)
        if name is None or len(name[2]) > 63 or any(len(value) > 63 or _VALUE.fullmatch(value) is None for value in values):
            raise BadSelector


def is_int64(text: str) -> bool:
    """Whether Go's ParseInt reads it as a 64-bit number."""
    return _INT64.fullmatch(text) is not None and -(2**63) <= int(text) < 2**63

"""Field and label selectors as kube-apiserver reads them when it derives the attributes of a request (apimachinery fields, labels)."""

import re
from collections.abc import Iterator
from typing import Final

_OPERATORS: Final = ("!=", "==", "=")
_NAME: Final = r"(?:(?:[A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])"
_PREFIX: Final = r"[a-z0-9](?:[-a-z0-9]*[a-z0-9])?(?:\.[a-z0-9](?:[-a-z0-9]*[a-z0-9])?)*"
_KEY: Final = re.compile(f"(?:({_PREFIX})/)?({_NAME})")
_VALUE: Final = re.compile(f"(?:{_NAME})?")
_TOKEN: Final = re.compile(r"[ \t\r\n]*(?:(==|!=|[=!(),<>])|([^ \t\r\n=!(),<>]+))")
_END: Final = ""
_INT64: Final = re.compile(r"([+-]?)0*([0-9]{1,19})")
_PREFIX_MAX: Final = 253
_WORD_MAX: Final = 63


class BadSelector(ValueError):
    """The selector does not parse."""


def required_name(selector: str) -> str | None:
    """The `metadata.name` that a field selector demands. Raises BadSelector."""
    found = None
    for term in sorted(_split_terms(selector), key=str.encode):  # Go sorts the terms by their bytes: the first of two names counts
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
    """Raise BadSelector unless a label selector parses: the recursive descent of apimachinery's labels.Parser, token for token."""
    tokens = [*_tokens(selector), _END]
    at = 0
    while tokens[at] != _END:
        at = _requirement(tokens, at)
        if tokens[at] == _END:
            return
        if tokens[at] != "," or not (tokens[at + 1] == "!" or _is_word(tokens[at + 1])):
            raise BadSelector
        at += 1


def _tokens(selector: str) -> Iterator[str]:
    at, end = 0, len(selector.rstrip(" \t\r\n"))
    while at < end:
        found = _TOKEN.match(selector, at)
        if found is None:
            raise BadSelector
        yield found[0].lstrip(" \t\r\n")
        at = found.end()


def _is_word(token: str) -> bool:
    return token != _END and token[0] not in "=!(),<>"


def _requirement(tokens: list[str], at: int) -> int:
    """One requirement from `at` on. Returns where the next token stands."""
    absent = tokens[at] == "!"
    at += absent
    if not _is_word(tokens[at]):
        raise BadSelector
    _check_key(tokens[at])
    at += 1
    if absent or tokens[at] in (_END, ","):
        return at
    operator, at = tokens[at], at + 1
    if operator in ("in", "notin"):
        return _values(tokens, at)
    if operator not in ("=", "==", "!=", "<", ">"):
        raise BadSelector
    value = ""
    if tokens[at] not in (_END, ","):
        if not _is_word(tokens[at]):
            raise BadSelector
        value, at = tokens[at], at + 1
    _check_value(value)
    if operator in "<>" and not is_int64(value):
        raise BadSelector
    return at


def _values(tokens: list[str], at: int) -> int:
    """`(a,,b)`: words and commas, where two words are not beside each other."""
    if tokens[at] != "(":
        raise BadSelector
    at += 1
    word = False
    while tokens[at] != ")":
        if tokens[at] == ",":
            word = False
        elif word or not _is_word(tokens[at]):
            raise BadSelector
        else:
            _check_value(tokens[at])
            word = True
        at += 1
    return at + 1


def _check_key(key: str) -> None:
    found = _KEY.fullmatch(key)
    if found is None or len(found[1] or "") > _PREFIX_MAX or len(found[2]) > _WORD_MAX:
        raise BadSelector


def _check_value(value: str) -> None:
    if len(value) > _WORD_MAX or _VALUE.fullmatch(value) is None:
        raise BadSelector


def is_int64(text: str) -> bool:
    """Whether Go's ParseInt reads it as a 64-bit number."""
    found = _INT64.fullmatch(text)
    return found is not None and -(2**63) <= int(found[1] + found[2]) < 2**63

"""A YAML body as plain values that `policy.kube.body` judges; aliases, anchors, tags, merge keys and what takes long are refused."""

import re
from collections.abc import Iterator
from typing import Final

import yaml

from robin.policy.kube.body import MERGE_KEY, Members

_DEPTH_MAX: Final = 100
_EVENTS_MAX: Final = 10_000
_NUMBER: Final = re.compile(r"[+-]?[0-9]{1,18}")
_TRUE: Final = frozenset({"true", "yes", "on", "y"})
_LOADER: Final = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the one in C is a hundred times faster; wheels have it


def read_yaml_body(text: str) -> object:
    """The value of the one document. Raises ValueError where it is not certain."""
    try:
        events = _events(text)
        value = _value(next(events), events, 0)
        if next(events, None) is not None:
            raise ValueError("there is more than one document")
    except (yaml.YAMLError, StopIteration):
        raise ValueError("not certainly read") from None
    return value


def _events(text: str) -> Iterator[yaml.Event]:
    """The events of nodes. Raises ValueError for aliases, anchors, tags, and for too many."""
    documents = 0
    for count, event in enumerate(yaml.parse(text, Loader=_LOADER)):
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None or getattr(event, "tag", None) is not None:
            raise ValueError("an alias, an anchor or a tag")
        documents += isinstance(event, yaml.DocumentStartEvent)
        if count > _EVENTS_MAX or documents > 1:
            raise ValueError("too much of it")
        if isinstance(event, yaml.NodeEvent | yaml.CollectionEndEvent):
            yield event


def _value(event: yaml.Event, events: Iterator[yaml.Event], depth: int) -> object:
    if depth > _DEPTH_MAX:
        raise ValueError("nested too deep")
    if isinstance(event, yaml.MappingStartEvent):
        members = []
        while not isinstance(key := next(events), yaml.MappingEndEvent):
            name = str(key.value) if isinstance(key, yaml.ScalarEvent) else ""
            if name == MERGE_KEY:
                raise ValueError("a merge key")
            if not name:
                _value(key, events, depth + 1)
            members.append((name, _value(next(events), events, depth + 1)))
        return Members(members)
    if isinstance(event, yaml.SequenceStartEvent):
        items = []
        while not isinstance(item := next(events), yaml.SequenceEndEvent):
            items.append(_value(item, events, depth + 1))
        return items
    if not isinstance(event, yaml.ScalarEvent):
        raise ValueError("not a node")  # noqa: TRY004 - it is about the text, not about an argument
    return _scalar(event)


def _scalar(event: yaml.ScalarEvent) -> object:
    """A plain scalar as YAML 1.1 reads it, as far as judgement needs to know."""
    text = str(event.value)
    if not event.implicit[0]:  # quoted, or a block: text
        return text
    if text.lower() in _TRUE:
        return True
    if text.lower() in ("false", "no", "off", "n"):
        return False
    if text in ("", "~", "null", "Null", "NULL"):
        return None
    return int(text) if _NUMBER.fullmatch(text) is not None else text

"""A YAML body as the plain values that `policy.kube.body` judges; aliases, anchors and tags are refused."""

from typing import Final

import yaml

from robin.policy.kube.body import Members

_DEPTH_MAX: Final = 100
_TRUE: Final = frozenset({"true", "yes", "on", "y"})


def read_yaml_body(text: str) -> object:
    """The value. Raises ValueError where it is not certain."""
    try:
        return _plain(yaml.compose(text, Loader=_PlainLoader), 0)
    except yaml.YAMLError:
        raise ValueError("not certainly read") from None


class _PlainLoader(yaml.SafeLoader):
    """Composes nodes, and refuses what could make two readers differ."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """Refuse aliases, anchors and explicit tags."""
        event = self.peek_event()  # type: ignore[no-untyped-call]
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None or getattr(event, "tag", None) is not None:
            raise yaml.YAMLError
        return super().compose_node(parent, index)


def _plain(node: yaml.Node | None, depth: int) -> object:
    if depth > _DEPTH_MAX or node is None:
        raise ValueError
    if isinstance(node, yaml.MappingNode):
        return Members((str(key.value) if isinstance(key, yaml.ScalarNode) else "", _plain(value, depth + 1)) for key, value in node.value)
    if isinstance(node, yaml.SequenceNode):
        return [_plain(item, depth + 1) for item in node.value]
    text = str(node.value)
    if isinstance(node, yaml.ScalarNode) and node.style is None:
        if text.lower() in _TRUE:
            return True
        if text.lower() in ("false", "no", "off", "n"):
            return False
        if text in ("", "~", "null", "Null", "NULL"):
            return None
        if text.lstrip("+-").isdigit():
            return int(text)
    return text

"""What the chart's values.schema.json says of `config`: the keys of the gateway's section that the chart does not fill, at every depth.

Values are judged by Robin alone, when it reads robin.yaml; keys by helm too, so that a misspelt one is refused before anything is applied.
`python -m tests.deploy.config_keys` prints what has to stand there.
"""

import json
from typing import Any, Final

from robin.config.robin_yaml import section
from robin.config.schema import Entries, Mapping, Schema, Sequence

FILLED: Final = ("name", "listeners", "issuers", "admin", "canary", "parent", "bridge.slots", "bridge.sign_with")
"""What the chart fills, or has no use for."""
WIDTH: Final = 120


def config_schema() -> dict[str, Any]:
    """The schema of `config`."""
    return _keys(section("gateway"), "")


def _keys(schema: Schema, path: str) -> dict[str, Any]:
    match schema:
        case Mapping():
            inner = {field.name: _keys(field.schema, f"{path}{field.name}.") for field in schema.fields if path + field.name not in FILLED}
            kind = ["object", "null"] if schema.nullable else "object"
            return {"type": kind, "additionalProperties": False, "properties": inner}
        case Entries():
            return {"type": "object", "additionalProperties": _keys(schema.value, f"{path}*.")}
        case Sequence():
            return {"type": "array", "items": _keys(schema.item, f"{path}*.")}
        case _:
            return {}


def as_text(value: Any, indent: str = "") -> str:
    """JSON with one line for what fits into one."""
    whole = json.dumps(value)
    if not isinstance(value, dict) or len(indent) + len(whole) <= WIDTH:
        return whole
    lines = [f"{indent}  {json.dumps(key)}: {as_text(one, f'{indent}  ')}" for key, one in value.items()]
    return "{\n" + ",\n".join(lines) + f"\n{indent}}}"


if __name__ == "__main__":
    print(as_text(config_schema(), "    "))

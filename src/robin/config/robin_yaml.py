"""The file robin.yaml: `version: 1` and one section for each plane. A plane is one line here, and one schema module."""

from collections.abc import Mapping as Table
from dataclasses import replace
from importlib import import_module
from typing import Final

from robin.config.diagnostic import Diagnostic, Position
from robin.config.file import FileLine, FileText
from robin.config.parse import Form, Kind, integer
from robin.config.schema import Field, Mapping, Scalar, Schema
from robin.config.table import BY_PATH, in_yaml

SECTIONS: Final[Table[str, str]] = {
    "sidecar": "robin.config.sidecar",
    "gateway": "robin.config.gateway_schema",
    "kube": "robin.config.kube",
    "broker": "robin.config.broker",
}
"""Plane: the module with the SCHEMA of its section, loaded where a YAML file is read."""

_INSTEAD: Final[Table[str, str]] = {
    "gateway": "use `robin check`, `robin doctor egress`, or `--grant` of `robin doctor` and `robin token`",
    "": "use `robin check`, or add `sidecar:` with its settings",
}
"""By plane: what there is for a file without a section `sidecar`."""

_VERSION = Kind(name="integer", parse=integer("1", "1").parse, form=Form(types=("integer",), lowest=1, highest=1))


def section(plane: str) -> Mapping:
    """The schema of a plane's section."""
    schema: Mapping = import_module(SECTIONS[plane]).SCHEMA
    return schema


def document() -> Schema:
    """The schema of the whole file."""
    version = Field(name="version", schema=Scalar(kind=_VERSION), help="the format of this file: 1", required=True)
    return Mapping(fields=(version, *(Field(name=name, schema=section(name)) for name in SECTIONS)))


def sidecar_lines(content: bytes, name: str) -> FileText:
    """The section `sidecar` as lines of settings, so that flags and environment go before it as before any file; or its diagnostics."""
    from robin.config.yaml_reader import read_yaml  # noqa: PLC0415 - PyYAML is loaded only where there is a YAML file

    root, found = read_yaml(content, name, document())
    diagnostics = tuple(replace(one, message=in_yaml(one.message), fix=in_yaml(one.fix)) for one in found)
    if root is None or any(one.severity == "error" for one in diagnostics):
        return FileText(lines=(), errors=(), diagnostics=diagnostics)
    lines_of = root.value["sidecar"]
    if lines_of.at is None:
        start = Position(file=name, line=1, col=1)
        others = [plane for plane in SECTIONS if plane in root.value and root.value[plane].at is not None]
        message = "there is no section `sidecar`" + (f": this file is for `robin {others[0]}`" if others else "")
        fix = _INSTEAD.get(others[0], _INSTEAD[""]) if others else "add `sidecar:` with its settings"
        missing = Diagnostic(at=start, code="key_missing", message=message, fix=fix)
        return FileText(lines=(), errors=(), diagnostics=(missing,))
    lines = [
        FileLine(number=leaf.at.line, key=BY_PATH[f"{group}.{key}"].key, value=leaf.text, at=leaf.at)
        for group, part in lines_of.value.items()
        for key, leaf in part.value.items()
        if leaf.at is not None
    ]
    return FileText(lines=tuple(lines), errors=(), diagnostics=diagnostics, section=lines_of.key_at)

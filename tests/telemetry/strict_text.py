"""A strict reader of the Prometheus text format 0.0.4, of our own: what it accepts, a scraper and a linter accept.

It refuses: a sample before its HELP and TYPE, a family in two places, a repeated series, names or labels outside the grammar, counters not
ending in `_total`, gauges that do, units that are not base units, histograms whose buckets do not cumulate to `+Inf` = count.
"""

import math
import re
from dataclasses import dataclass, field

_NAME = re.compile(r"[a-z_][a-z0-9_]*\Z")
_SAMPLE = re.compile(r"([a-z_:][a-z0-9_:]*)(?:\{((?:[^\"}]|\"(?:[^\"\\]|\\.)*\")*)\})? (\S+)\Z")
_LABEL = re.compile(r'([a-z_][a-z0-9_]*)="((?:[^"\\\n]|\\["\\n])*)"(?:,|\Z)')
_OTHER_UNITS = ("_ms", "_millis", "_milliseconds", "_us", "_minutes", "_hours", "_kb", "_mb", "_kib", "_mib", "_percent")
_SUFFIXES = ("_bucket", "_count", "_sum")

Labels = frozenset[tuple[str, str]]


@dataclass(slots=True)
class ReadFamily:
    """One family: its kind, its help text, and its samples by name and labels."""

    kind: str
    text: str
    samples: dict[tuple[str, Labels], float] = field(default_factory=dict)


def read_strictly(text: str) -> dict[str, ReadFamily]:
    """Every family of an exposition. AssertionError where anything is less than right."""
    assert text.endswith("\n"), "the last line has no newline"
    families: dict[str, ReadFamily] = {}
    helps: dict[str, str] = {}
    current = ""
    for line in text.splitlines():
        if line.startswith("# HELP "):
            name, _, told = line[7:].partition(" ")
            assert name not in helps, f"{name} has two HELP lines"
            assert told, f"{name} has an empty HELP"
            helps[name] = told
        elif line.startswith("# TYPE "):
            name, kind = line[7:].split(" ")
            assert name in helps, f"{name} has no HELP before its TYPE"
            assert name not in families, f"{name} has two TYPE lines"
            assert _NAME.match(name), f"{name} is no name"
            assert kind in {"counter", "gauge", "histogram"}, f"{name} is a {kind}"
            assert (kind == "counter") == name.endswith("_total"), f"{name} is a {kind}"
            assert not name.removesuffix("_total").endswith(_OTHER_UNITS), f"{name} is not in base units"
            families[name] = ReadFamily(kind, helps[name])
            current = name
        else:
            assert not line.startswith("#"), f"unexpected comment: {line}"
            _read_sample(line, current, families[current])
    assert set(helps) == set(families), "a HELP without a TYPE"
    for name, family in families.items():
        if family.kind == "histogram":
            _check_buckets(name, family)
    return families


def _read_sample(line: str, current: str, family: ReadFamily) -> None:
    found = _SAMPLE.match(line)
    assert found, f"not a sample: {line}"
    name, inner, number = found.groups()
    allowed = {current + suffix for suffix in _SUFFIXES} if family.kind == "histogram" else {current}
    assert name in allowed, f"{name} stands under {current}"
    labels = frozenset(_read_labels(inner or ""))
    assert (name, labels) not in family.samples, f"the series appears twice: {line}"
    value = float(number)
    assert family.kind == "gauge" or value >= 0, f"a count below zero: {line}"
    family.samples[name, labels] = value


def _read_labels(inner: str) -> list[tuple[str, str]]:
    labels: list[tuple[str, str]] = []
    at = 0
    while at < len(inner):
        found = _LABEL.match(inner, at)
        assert found, f"bad labels: {inner}"
        labels.append((found[1], found[2]))
        at = found.end()
    assert len({name for name, _ in labels}) == len(labels), f"a label twice: {inner}"
    return labels


def _check_buckets(name: str, family: ReadFamily) -> None:
    rows: dict[Labels, list[tuple[float, float]]] = {}
    for (sample, labels), value in family.samples.items():
        if sample == f"{name}_bucket":
            bound = dict(labels)["le"]
            rows.setdefault(frozenset(label for label in labels if label[0] != "le"), []).append((float(bound), value))
    for labels, buckets in rows.items():
        assert buckets == sorted(buckets), f"{name}: buckets out of order"
        assert [count for _, count in buckets] == sorted(count for _, count in buckets), f"{name}: buckets do not cumulate"
        assert buckets[-1][0] == math.inf, f"{name}: no +Inf bucket"
        assert buckets[-1][1] == family.samples[f"{name}_count", labels], f"{name}: +Inf differs from count"
        assert (f"{name}_sum", labels) in family.samples, f"{name}: no sum"
    assert len(family.samples) == sum(len(buckets) + 2 for buckets in rows.values()), f"{name}: stray samples"

"""A small SVG writer for lines over time: stacked panels on one time axis, each with its own scale, unit and legend; phases as bands."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

_WIDTH, _LEFT, _RIGHT, _TOP = 1200, 86, 168, 64
_PANEL, _GAP, _BOTTOM = 170, 34, 52
_PLOT = _WIDTH - _LEFT - _RIGHT
_COLOURS = ("#1f5fa8", "#c2410c", "#15803d", "#7e22ce")
_SHADES = ("#ffffff", "#e8f0fa", "#fdf0d5", "#fbe3e3", "#efe6f7", "#e3f2e6", "#eceff1", "#fff3b0")

Scale = Callable[[float], float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One series: (seconds, value)."""

    name: str
    points: Sequence[tuple[float, float]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """One plot; `unit` labels its axis; `logarithmic` for what spans powers of ten."""

    title: str
    unit: str
    lines: Sequence[Line]
    logarithmic: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Band:
    """A stretch of time with a name; the same name has the same shade."""

    name: str
    begin_s: float
    end_s: float


def render(title: str, subtitle: str, panels: Sequence[Panel], bands: Sequence[Band]) -> str:
    """The whole picture as SVG text."""
    end_s = max([1.0, *(band.end_s for band in bands), *(at for panel in panels for line in panel.lines for at, _ in line.points)])
    height = _TOP + len(panels) * (_PANEL + _GAP) + _BOTTOM
    shades = {name: _SHADES[number % len(_SHADES)] for number, name in enumerate(dict.fromkeys(band.name for band in bands))}
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}" height="{height}" '
        'font-family="system-ui, sans-serif" font-size="12" fill="#222">',
        f'<rect width="{_WIDTH}" height="{height}" fill="#fff"/>',
        _text(_LEFT, 26, title, size=17, weight="600"),
        _text(_LEFT, 46, subtitle, fill="#555"),
    ]
    for number, panel in enumerate(panels):
        parts += _panel(panel, _TOP + number * (_PANEL + _GAP) + 14, end_s, bands, shades)
    bottom = _TOP + len(panels) * (_PANEL + _GAP) - _GAP + 14
    for at in _time_ticks(end_s):
        parts.append(_text(_x(at, end_s), bottom + 18, _clock(at), anchor="middle"))
    parts.append(_text(_LEFT + _PLOT / 2, bottom + 36, "time since the start (minutes:seconds)", anchor="middle", fill="#555"))
    parts.append(_text(_WIDTH - 92, _TOP + 6, "phases", weight="600"))
    for number, (name, shade) in enumerate(shades.items()):
        y = _TOP + 24 + number * 18
        parts.append(f'<rect x="{_WIDTH - 92}" y="{y - 10}" width="14" height="12" fill="{shade}" stroke="#999"/>')
        parts.append(_text(_WIDTH - 73, y, name))
    return "\n".join([*parts, "</svg>"]) + "\n"


def ticks(low: float, high: float, wanted: int) -> list[float]:
    """Round numbers from low to high, at most about `wanted` of them."""
    rough = max((high - low) / wanted, 1e-9)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough)
    first = math.ceil(low / step - 1e-9)
    return [count * step for count in range(first, math.floor(high / step + 1e-9) + 1)]


def _panel(panel: Panel, top: float, end_s: float, bands: Sequence[Band], shades: dict[str, str]) -> list[str]:
    bottom = top + _PANEL
    values = [value for line in panel.lines for _, value in line.points if math.isfinite(value)]
    parts = [
        f'<rect x="{_x(band.begin_s, end_s):.1f}" y="{top}" width="{_x(band.end_s, end_s) - _x(band.begin_s, end_s):.1f}" '
        f'height="{_PANEL}" fill="{shades[band.name]}"/>'
        for band in bands
    ]
    scale, marks = _log_scale(values, top, bottom) if panel.logarithmic else _linear_scale(values, top, bottom)
    for value, label in marks:
        y = scale(value)
        parts.append(f'<line x1="{_LEFT}" x2="{_LEFT + _PLOT}" y1="{y:.1f}" y2="{y:.1f}" stroke="#ccc" stroke-width="0.7"/>')
        parts.append(_text(_LEFT - 7, y + 4, label, anchor="end"))
    parts.append(f'<rect x="{_LEFT}" y="{top}" width="{_PLOT}" height="{_PANEL}" fill="none" stroke="#888"/>')
    parts.append(_text(_LEFT, top - 6, panel.title, weight="600"))
    middle = top + _PANEL / 2
    parts.append(f'<g transform="rotate(-90 22 {middle})">{_text(22, middle, panel.unit, anchor="middle", fill="#555")}</g>')
    for number, line in enumerate(panel.lines):
        colour = _COLOURS[number % len(_COLOURS)]
        for stretch in _stretches(line.points):
            points = " ".join(f"{_x(at, end_s):.1f},{scale(value):.1f}" for at, value in stretch)
            parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="1.3" stroke-linejoin="round"/>')
        y = bottom - 8 - 17 * (len(panel.lines) - 1 - number)
        parts.append(f'<line x1="{_LEFT + _PLOT + 8}" x2="{_LEFT + _PLOT + 24}" y1="{y}" y2="{y}" stroke="{colour}" stroke-width="2.4"/>')
        parts.append(_text(_LEFT + _PLOT + 29, y + 4, line.name))
    return parts


def _stretches(points: Sequence[tuple[float, float]]) -> list[list[tuple[float, float]]]:
    """The points without what is no number: there the line is broken."""
    stretches: list[list[tuple[float, float]]] = [[]]
    for at, value in points:
        if math.isfinite(value):
            stretches[-1].append((at, value))
        elif stretches[-1]:
            stretches.append([])
    return [stretch for stretch in stretches if stretch]


def _linear_scale(values: Sequence[float], top: float, bottom: float) -> tuple[Scale, list[tuple[float, str]]]:
    """From zero to a round number above the largest."""
    largest = max([*values, 1.0])
    marks = ticks(0.0, largest * 1.15, 5)
    high = max(marks[-1], largest * 1.05)

    def scale(value: float) -> float:
        return bottom - (bottom - top) * value / high

    return scale, [(mark, f"{mark:,.0f}" if mark >= 10 or mark == int(mark) else f"{mark:g}") for mark in marks]


def _log_scale(values: Sequence[float], top: float, bottom: float) -> tuple[Scale, list[tuple[float, str]]]:
    """Whole powers of ten around all values."""
    above = [value for value in values if value > 0.0] or [1.0]
    low, high = math.floor(math.log10(min(above))), math.ceil(math.log10(max(above)))
    high = max(high, low + 1)

    def scale(value: float) -> float:
        return bottom - (bottom - top) * (math.log10(max(value, 10.0**low)) - low) / (high - low)

    return scale, [(10.0**power, f"{10.0**power:,g}") for power in range(low, high + 1)]


def _x(at: float, end_s: float) -> float:
    return _LEFT + _PLOT * at / end_s


def _time_ticks(end_s: float) -> list[float]:
    """Instants that a clock has, at most a dozen."""
    step = next((step for step in (5, 10, 15, 30, 60, 120, 300, 600) if end_s / step <= 12), 3600)
    return [float(at) for at in range(0, int(end_s) + 1, step)]


def _clock(at: float) -> str:
    return f"{int(at) // 60}:{int(at) % 60:02d}"


def _text(x: float, y: float, text: str, *, anchor: str = "start", size: int = 12, weight: str = "400", fill: str = "#222") -> str:
    style = f'text-anchor="{anchor}" font-size="{size}" font-weight="{weight}" fill="{fill}"'
    return f'<text x="{x:.1f}" y="{y:.1f}" {style}>{escape(text)}</text>'

"""The soak's picture: well-formed, with an axis, a unit and a legend for every panel, and honest about what was not measured."""

import math
from xml.etree import ElementTree

import pytest
from tests.soak.chart import Band, Line, Panel, render, ticks

SVG = "{http://www.w3.org/2000/svg}"
PANELS = [
    Panel(title="Load", unit="requests/s", lines=[Line(name="begun", points=[(0.0, 0.0), (60.0, 2000.0)])]),
    Panel(
        title="Latency",
        unit="ms (logarithmic)",
        logarithmic=True,
        lines=[
            Line(name="p50", points=[(0.0, 1.0), (20.0, math.nan), (40.0, 3.0), (60.0, 2.0)]),
            Line(name="p99 <all>", points=[(0.0, 900.0), (60.0, 20.0)]),
        ],
    ),
]
BANDS = [Band(name="calm", begin_s=0.0, end_s=30.0), Band(name="drain", begin_s=30.0, end_s=60.0)]


def drawn() -> ElementTree.Element:
    return ElementTree.fromstring(render("A soak", "of one minute", PANELS, BANDS))


def words(picture: ElementTree.Element) -> list[str]:
    return [text.text or "" for text in picture.iter(f"{SVG}text")]


def test_every_panel_has_its_title_its_unit_and_a_legend() -> None:
    said = words(drawn())
    for wanted in ("A soak", "of one minute", "Load", "requests/s", "begun", "Latency", "ms (logarithmic)", "p50", "p99 <all>"):
        assert said.count(wanted) == 1


def test_the_axes_have_round_numbers_and_the_time_in_minutes() -> None:
    said = words(drawn())
    assert {"0", "500", "1,000", "1,500", "2,000"} <= set(said)  # load
    assert {"1", "10", "100"} <= set(said)  # latency
    clock = [word for word in said if ":" in word and word[0].isdigit()]
    assert clock == [*(f"0:{second:02d}" for second in range(0, 60, 5)), "1:00"]
    assert "time since the start (minutes:seconds)" in said


def test_a_line_is_broken_where_nothing_was_measured() -> None:
    lines = [line.get("points", "").split() for line in drawn().iter(f"{SVG}polyline")]
    assert [len(points) for points in lines] == [2, 1, 2, 2]


def test_all_that_is_drawn_lies_within_its_panel() -> None:
    picture = drawn()
    frames = [frame for frame in picture.iter(f"{SVG}rect") if frame.get("fill") == "none"]
    assert len(frames) == len(PANELS)
    left, width = float(frames[0].get("x", 0)), float(frames[0].get("width", 0))
    tops = [float(frame.get("y", 0)) for frame in frames]
    height = float(frames[0].get("height", 0))
    for line in picture.iter(f"{SVG}polyline"):
        for point in line.get("points", "").split():
            x, y = (float(part) for part in point.split(","))
            assert left <= x <= left + width
            assert any(top <= y <= top + height for top in tops)


def test_phases_are_shaded_alike_and_named_once() -> None:
    again = [*BANDS, Band(name="calm", begin_s=60.0, end_s=90.0)]
    picture = ElementTree.fromstring(render("t", "s", PANELS, again))
    assert words(picture).count("calm") == 1
    shades = {band.get("fill") for band in picture.iter(f"{SVG}rect") if band.get("height") == "170" and band.get("fill") != "none"}
    assert len(shades) == 2


@pytest.mark.parametrize(
    ("low", "high", "wanted", "marks"),
    [
        (0.0, 100.0, 5, [0.0, 20.0, 40.0, 60.0, 80.0, 100.0]),
        (0.0, 1.0, 4, [0.0, 0.5, 1.0]),
        (3.0, 17.0, 5, [5.0, 10.0, 15.0]),
        (0.0, 2300.0, 5, [0.0, 500.0, 1000.0, 1500.0, 2000.0]),
    ],
)
def test_ticks_are_round(low: float, high: float, wanted: int, marks: list[float]) -> None:
    assert ticks(low, high, wanted) == marks

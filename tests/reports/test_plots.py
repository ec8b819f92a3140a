"""Charts: well-formed, told in words too, with every name escaped and every mark inside the picture."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest

from reports.plots import Bar, Point, bars, curve, reliability

SVG = "{http://www.w3.org/2000/svg}"
AWKWARD = "a <b>&\"'{0}"


def parsed(svg: object) -> ElementTree.Element:
    return ElementTree.fromstring(str(svg).replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1))


def test_every_chart_has_a_title_and_a_description_that_its_label_points_to() -> None:
    for svg in (
        bars([Bar("x", 0.2)], "k", "Title", "Words"),
        curve([Point(0, 0.5), Point(1, 0.6)], "k", "Title", "Words", "x", "y"),
        reliability([(0.5, 0.5, 3)], "k", "Title", "Words"),
    ):
        tree = parsed(svg)
        labels = (tree.get("aria-labelledby") or "").split()
        found = {child.get("id"): child.text for child in tree if child.tag in (f"{SVG}title", f"{SVG}desc")}
        assert [found[label] for label in labels] == ["Title", "Words"]


def test_names_are_escaped() -> None:
    tree = parsed(bars([Bar(AWKWARD, 0.2)], "k", AWKWARD, AWKWARD))
    assert next(text.text for text in tree.iter(f"{SVG}text")) == AWKWARD
    assert not list(tree.iter(f"{SVG}b"))


def test_bar_is_as_long_as_its_value_on_a_round_scale() -> None:
    tree = parsed(bars([Bar("x", 0.1, (0.05, 0.2)), Bar("y", 0.2)], "k", "t", "d"))
    tracks = [float(r.get("width") or 0) for r in tree.iter(f"{SVG}rect") if r.get("class") == "track"]
    drawn = [float(r.get("width") or 0) for r in tree.iter(f"{SVG}rect") if r.get("class") == "bar"]
    assert drawn == [pytest.approx(tracks[0] / 2), pytest.approx(tracks[0])]


def test_bar_beyond_its_scale_and_interval_below_zero_stay_inside() -> None:
    tree = parsed(bars([Bar("x", 1.2, (-0.1, 1.4), 2.0)], "k", "t", "d"))
    width = float((tree.get("viewBox") or "").split()[2])
    numbers = [float(n) for path in tree.iter(f"{SVG}path") for n in re.findall(r"-?[\d.]+", path.get("d") or "")]
    assert all(0 <= number <= width for number in numbers)


def test_curve_rises_with_its_values() -> None:
    tree = parsed(curve([Point(0, 0.5, (0.4, 0.6)), Point(1, 0.7, (0.6, 0.8))], "k", "t", "d", "x", "y"))
    first, second = [(float(c.get("cx") or 0), float(c.get("cy") or 0)) for c in tree.iter(f"{SVG}circle")]
    assert second[0] > first[0]
    assert second[1] < first[1]


@pytest.mark.parametrize("values", [[1.0], [0.0, 0.0], [1.0, 1.0], [0.5, 0.5000001]])
def test_curve_of_flat_or_extreme_values_is_drawn(values: list[float]) -> None:
    tree = parsed(curve([Point(n, value) for n, value in enumerate(values)], "k", "t", "d", "x", "y"))
    height = float((tree.get("viewBox") or "").split()[3])
    assert all(0 <= float(circle.get("cy") or -1) <= height for circle in tree.iter(f"{SVG}circle"))


def test_empty_bins_of_confidence_are_left_out() -> None:
    tree = parsed(reliability([(0.5, 0.5, 3), (0.0, 0.0, 0)], "k", "t", "d"))
    assert len(list(tree.iter(f"{SVG}circle"))) == 1

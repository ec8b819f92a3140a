"""Charts as inline SVG: strings in, ``Markup`` out; drawn from plain numbers, coloured by the page's CSS classes.

Each has a title and a description for people who can't see it, and no number is told by colour alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from curation.records import Interval

if TYPE_CHECKING:
    from markupsafe import Markup

_WIDTH = 560
_ROW = 50
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 20, 16, 44


@dataclass(frozen=True)
class Bar:
    """One bar: its name, a fraction in [0, 1], its 95 % interval, and what to compare with (a thin mark)."""

    name: str
    value: float
    ci: Interval | None = None
    reference: float | None = None
    note: str = ""


@dataclass(frozen=True)
class Point:
    """One point of a curve: its place, a fraction, and its 95 % interval."""

    x: float
    value: float
    ci: Interval | None = None


def bars(bars: Sequence[Bar], key: str, title: str, description: str) -> Markup:
    """Horizontal bars with intervals, names above them; the scale ends at a round value above the largest bound."""
    top = _round_up(max([*(bar.ci[1] if bar.ci else bar.value for bar in bars), 0.05]))
    span = _WIDTH - 120
    body = [_bar(bar, row, span, top) for row, bar in enumerate(bars)]
    return _svg(key, _WIDTH, max(len(bars), 1) * _ROW + 6, title, description, _join(body))


def _bar(bar: Bar, row: int, span: float, top: float) -> Markup:
    y = row * _ROW

    def at(fraction: float) -> float:
        return round(span * min(max(fraction, 0), top) / top, 1)

    parts = [
        _format('<text class="name" x="0" y="{}">{}</text>', y + 16, _shorten(bar.name, 68)),
        _format('<rect class="track" x="0" y="{}" width="{}" height="14" rx="3"/>', y + 24, span),
        _format('<rect class="bar" x="0" y="{}" width="{}" height="14" rx="3"/>', y + 24, at(bar.value)),
        _format('<text class="value" x="{}" y="{}">{} %</text>', span + 12, y + 36, f"{100 * bar.value:.1f}"),
    ]
    if bar.ci:
        low, high = at(bar.ci[0]), at(bar.ci[1])
        parts.append(_whisker(low, high, y + 31))
    if bar.reference is not None:
        x = at(bar.reference)
        parts.append(_format('<line class="reference" x1="{0}" x2="{0}" y1="{1}" y2="{2}"/>', x, y + 20, y + 42))
    return _join(parts)


def _whisker(low: float, high: float, y: float) -> Markup:
    return _format(
        '<path class="whisker" d="M{0} {1}V{2}M{0} {3}H{4}M{4} {1}V{2}"/>', low, y - 5, y + 5, y, high
    )  # fmt: skip


def curve(points: Sequence[Point], key: str, title: str, description: str, x_words: str, y_words: str) -> Markup:
    """A line through fractions over iterations, each with its interval."""
    height = 300
    bounds = [bound for point in points for bound in (point.ci or (point.value, point.value))]
    low, high = _nice_range(min(bounds, default=0.0), max(bounds, default=1.0))
    last = max([point.x for point in points], default=0)
    first = min([point.x for point in points], default=0)
    wide, tall = _WIDTH - _LEFT - _RIGHT, height - _TOP - _BOTTOM

    def place(x: float, value: float) -> tuple[float, float]:
        share = 0.5 if last == first else 0.04 + 0.92 * (x - first) / (last - first)
        return round(_LEFT + wide * share, 1), round(_TOP + tall * (1 - (value - low) / (high - low)), 1)

    parts = [_grid(low, high, place), _axis_words(x_words, y_words, height)]
    parts += [_x_tick(place(point.x, low), f"{point.x:g}") for point in _thin(points)]
    parts.append(_format('<path class="line" d="{}"/>', _path([place(point.x, point.value) for point in points])))
    for point in points:
        x, y = place(point.x, point.value)
        if point.ci:
            bottom, top = place(point.x, point.ci[0])[1], place(point.x, point.ci[1])[1]
            parts.append(
                _format(
                    '<path class="whisker" d="M{0} {1}V{2}M{3} {1}H{4}M{3} {2}H{4}"/>', x, top, bottom, x - 5, x + 5
                )
            )
        parts.append(_format('<circle class="dot" cx="{}" cy="{}" r="4.5"/>', x, y))
        at_edge, below = x > _WIDTH - 48, y < _TOP + 16  # there it would stand outside of the picture
        parts.append(
            _format(
                '<text class="value{}" x="{}" y="{}">{}</text>',
                " end" if at_edge else "", x - 8 if at_edge else x + 8, y + 18 if below else y - 8,
                f"{100 * point.value:.1f}",
            )
        )  # fmt: skip
    return _svg(key, _WIDTH, height, title, description, _join(parts))


def reliability(bins: Sequence[tuple[float, float, int]], key: str, title: str, description: str) -> Markup:
    """Accuracy over mean confidence; a dot's area grows with the images in its bin; the diagonal is honest."""
    height = 340
    side = height - _TOP - _BOTTOM
    most = max([count for _, _, count in bins], default=1) or 1

    def place(x: float, y: float) -> tuple[float, float]:
        return round(_LEFT + side * x, 1), round(_TOP + side * (1 - y), 1)

    (x0, y0), (x1, y1) = place(0, 0), place(1, 1)
    parts = [_format('<rect class="frame" x="{}" y="{}" width="{}" height="{}"/>', x0, y1, x1 - x0, y0 - y1)]
    parts.append(_format('<path class="honest" d="M{} {}L{} {}"/>', x0, y0, x1, y1))
    for tick in (0.0, 0.25, 0.5, 0.75, 1.0):
        parts.append(_x_tick(place(tick, 0), f"{100 * tick:.0f}"))
        x, y = place(0, tick)
        parts.append(_format('<text class="tick end" x="{}" y="{}">{}</text>', x - 8, y + 4, f"{100 * tick:.0f}"))
    filled = [entry for entry in bins if entry[2]]
    parts.append(_format('<path class="line" d="{}"/>', _path([place(mean, hit) for mean, hit, _ in filled])))
    for mean, hit, count in filled:
        x, y = place(mean, hit)
        parts.append(
            _format('<circle class="dot" cx="{}" cy="{}" r="{}"/>', x, y, f"{3 + 7 * (count / most) ** 0.5:.1f}")
        )
    parts.append(_axis_words("Confidence, %", "Right, %", height, side))
    return _svg(key, _LEFT + side + _RIGHT, height, title, description, _join(parts))


def _grid(low: float, high: float, place: Callable[[float, float], tuple[float, float]]) -> Markup:
    parts = []
    steps = 4
    for step in range(steps + 1):
        value = low + (high - low) * step / steps
        y = place(0, value)[1]
        parts.append(_format('<line class="rule" x1="{0}" x2="{1}" y1="{2}" y2="{2}"/>', _LEFT, _WIDTH - _RIGHT, y))
        parts.append(_format('<text class="tick end" x="{}" y="{}">{}</text>', _LEFT - 8, y + 4, f"{100 * value:.0f}"))
    return _join(parts)


def _axis_words(x_words: str, y_words: str, height: int, wide: float | None = None) -> Markup:
    middle = _LEFT + (_WIDTH - _LEFT - _RIGHT if wide is None else wide) / 2
    return _join(
        [
            _format('<text class="axis" x="{}" y="{}">{}</text>', middle, height - 8, x_words),
            _format(
                '<text class="axis" transform="translate(14 {}) rotate(-90)">{}</text>', (height - 28) / 2, y_words
            ),
        ]
    )


def _x_tick(at: tuple[float, float], words: str) -> Markup:
    return _format('<text class="tick" x="{}" y="{}">{}</text>', at[0], at[1] + 18, words)


def _thin(points: Sequence[Point]) -> Sequence[Point]:
    """At most about twelve ticks."""
    return points[:: max(1, -(-len(points) // 12))]


def _path(places: Sequence[tuple[float, float]]) -> str:
    return "".join(f"{'L' if index else 'M'}{x} {y}" for index, (x, y) in enumerate(places))


def _round_up(fraction: float) -> float:
    """The next of 5, 10, 20, 30, 50, 75, 100 % that holds the fraction.

    >>> _round_up(0.37)
    0.5
    """
    return next((end for end in (0.05, 0.1, 0.2, 0.3, 0.5, 0.75) if fraction <= end), 1.0)


def _nice_range(low: float, high: float) -> tuple[float, float]:
    """A range of whole percents around the bounds, at least four percent wide, inside [0, 1].

    >>> _nice_range(0.763, 0.921)
    (0.74, 0.94)
    """
    step = 4
    first = max(0, int(100 * low) - 2)
    last = min(100, -int(-100 * high // 1) + 1)
    missing = -(last - first) % step
    last, missing = (last + missing, 0) if last + missing <= 100 else (100, missing - (100 - last))
    first = max(0, first - missing)
    return first / 100, max(last, first + step) / 100


def _shorten(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


def _svg(key: str, width: float, height: float, title: str, description: str, body: Markup) -> Markup:
    return _format(
        '<svg class="plot" role="img" aria-labelledby="{0}-title {0}-desc" viewBox="0 0 {1} {2}" width="{1}" '
        'height="{2}">'
        '<title id="{0}-title">{3}</title><desc id="{0}-desc">{4}</desc>{5}</svg>',
        key, f"{width:g}", f"{height:g}", title, description, body,
    )  # fmt: skip


def _format(template: str, *values: object) -> Markup:
    """Fill a template of ours; every value that is not markup already is escaped."""
    from markupsafe import Markup

    return Markup(template).format(*values)  # the templates are literals of this file


def _join(parts: Sequence[Markup]) -> Markup:
    from markupsafe import Markup

    return Markup("").join(parts)

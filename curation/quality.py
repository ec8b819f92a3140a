"""Images that are dark, washed out, blurred, almost empty, or of an odd size or shape, as issues with reasons."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from curation.properties import JUDGED
from curation.records import Issue

if TYPE_CHECKING:
    import pandas as pd

Measured = npt.NDArray[np.float64]


@dataclass(frozen=True)
class _Rule:
    """When a property makes an image an issue: below ``soft`` and unusual here, or below ``hard`` whatever is usual."""

    kind: str
    soft: float
    hard: float
    reason: str


#: Thresholds of dark, light and information follow cleanvision's published defaults (99th percentile of brightness
#: under 0.32, 5th over 0.95, entropy under 3 bits). Sharpness: photographs and cell images that are in focus measure
#: 0.45 to 0.9, the same with a Gaussian blur of 3 pixels 0.2 to 0.45. The hard levels are a tenth to a half of them.
_RULES = (
    _Rule(
        "dark", 0.32, 0.06,
        "very dark: its brightest parts reach {value:.0%} of full brightness, usual here {usual:.0%}",
    ),
    _Rule(
        "light", 0.05, 0.01,
        "washed out: even its darkest parts are {white:.0%} bright, usual here {usual_white:.0%}",
    ),
    _Rule("blurry", 0.35, 0.15, "blurred: sharpness {value:.2f}, usual here {usual:.2f}"),
    _Rule(
        "low_information", 3 / 8, 1 / 8,
        "almost empty: {bits:.1f} bits of information a pixel, usual here {usual_bits:.1f}",
    ),
)  # fmt: skip
#: Where more than this share of a data set falls below a hard level, that is how the set is, not an issue.
_USUAL_SHARE = 0.1
#: How many robust standard deviations below the median are unusual, and the least deviation that counts.
_FENCE, _LEAST_DEVIATION = 3.0, 0.02
#: Sides that differ from the usual by more than this factor are odd; cleanvision's default for aspect is 0.35.
_ODD_SIZE, _ODD_ASPECT = 3.0, 0.35


def quality_issues(properties: pd.DataFrame) -> list[Issue]:
    """Images that are dark, light, blurry, almost empty, or of an odd size or shape; worst first within each kind.

    ``properties`` is what ``measure_properties`` gives. A level counts only where it is also unusual in this data set
    (three robust standard deviations from the median), so that a set which is dark throughout, as electroluminescence
    images can be, is not flagged as a whole; a black, white or empty image is flagged unless a tenth of the set is.
    Scores are 0 for the worst and 1 for the best, on each kind's own scale.
    """
    ids = [str(sample_id) for sample_id in properties.index]
    columns = {name: properties[name].to_numpy(dtype=np.float64) for name in JUDGED}
    scales = {
        "dark": columns["brightest"],
        "light": 1 - columns["darkest"],
        "blurry": columns["sharpness"],
        "low_information": columns["information"] / 8,
    }
    found: list[Issue] = []
    for rule in _RULES:
        found += _low_issues(rule, ids, scales[rule.kind])
    return found + _odd_sizes(ids, columns["width"], columns["height"]) + _odd_aspects(ids, columns["aspect"])


def unusually_low(values: Measured, soft: float, hard: float) -> npt.NDArray[np.bool_]:
    """Which values, shape (n,), are below ``soft`` and far below the median, or below ``hard`` where few are.

    >>> unusually_low(np.array([0.1, 0.8, 0.8, 0.7, 0.9]), soft=0.3, hard=0.05).tolist()
    [True, False, False, False, False]
    >>> unusually_low(np.array([0.1, 0.1, 0.1, 0.12, 0.09]), soft=0.3, hard=0.05).tolist()
    [False, False, False, False, False]
    """
    if not len(values):
        return np.zeros(0, dtype=np.bool_)
    low: npt.NDArray[np.bool_] = (values < soft) & (values < _fence(values))
    very_low = values < hard
    return low | very_low if very_low.mean() <= _USUAL_SHARE else low


def _fence(values: Measured) -> float:
    middle = float(np.median(values))
    deviation = 1.4826 * float(np.median(np.abs(values - middle)))
    return middle - _FENCE * max(deviation, _LEAST_DEVIATION)


def _low_issues(rule: _Rule, ids: Sequence[str], values: Measured) -> list[Issue]:
    def reason(row: int) -> str:
        value, usual = values[row], np.median(values)
        return rule.reason.format(
            value=value, usual=usual, white=1 - value, usual_white=1 - usual, bits=8 * value, usual_bits=8 * usual
        )

    return _issues(rule.kind, ids, values, unusually_low(values, rule.soft, rule.hard), reason)


def _odd_sizes(ids: Sequence[str], width: Measured, height: Measured) -> list[Issue]:
    def reason(row: int) -> str:
        usual = f"{np.median(width):.0f} x {np.median(height):.0f}"
        return f"of an odd size: {width[row]:.0f} x {height[row]:.0f} pixels, usual here {usual}"

    likeness = _likeness(np.sqrt(width * height))
    return _issues("odd_size", ids, likeness, unusually_low(likeness, 1 / _ODD_SIZE, 1 / 30), reason)


def _odd_aspects(ids: Sequence[str], aspect: Measured) -> list[Issue]:
    def reason(row: int) -> str:
        return f"of an odd shape: {aspect[row]:.2f} times as wide as high, usual here {np.median(aspect):.2f}"

    narrow = np.minimum(aspect, 1 / aspect)
    flagged = (narrow < _ODD_ASPECT) & unusually_low(_likeness(aspect), 0.7, 0.05)
    return _issues("odd_aspect_ratio", ids, narrow, flagged, reason)


def _likeness(lengths: Measured) -> Measured:
    """1 for the usual length (the median), 1/3 for three times more or less."""
    if not len(lengths):
        return lengths
    likeness: Measured = np.exp(-np.abs(np.log(lengths / np.median(lengths))))
    return likeness


def _issues(
    kind: str, ids: Sequence[str], scores: Measured, flagged: npt.NDArray[np.bool_], reason: Callable[[int], str]
) -> list[Issue]:
    """An issue for each flagged row, worst first."""
    rows = sorted(np.flatnonzero(flagged).tolist(), key=lambda row: (scores[row], ids[row]))
    return [Issue(ids[row], kind, float(np.clip(scores[row], 0, 1)), reason(row)) for row in rows]

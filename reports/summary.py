"""Everything that an iteration has to say, as one typed value: the input of every report (pure).

Class names here are for people; shapes and units are said at each field.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any

from curation.audit import Outlook, Recommendation
from curation.costs import CostFigures
from curation.credit import Credit
from curation.records import Estimate, Interval, Metrics, Slice
from curation.words import counted

#: In place of the label of an image that is not trained on.
LEFT_OUT = "left out"


@dataclass(frozen=True)
class Card:
    """A picture in a report with what there is to say about it; labels are class names, ``current`` may be LEFT_OUT.

    ``bits`` is how many 16-bit images use, as of a ``Sample``.
    """

    sample_id: str
    path: str
    file: Path
    given: str
    current: str
    predicted: str
    suggested: str
    label_quality: float | None
    reason: str
    bits: int = 16


@dataclass(frozen=True)
class SliceCard:
    """A weak slice with typical pictures and, where a recipe was applied, its before/after contact sheet (PNG).

    ``recipe_words`` say what was done, and that it is not proven where it is not; ``shot`` what to collect, in words
    and numbers, with how many have ``arrived`` of how many are ``wanted``. ``values`` are those of the conditions as
    people know them: of a class its name.
    """

    slice: Slice
    words: str
    examples: tuple[Card, ...] = ()
    recipe_words: str = ""
    preview: bytes | None = None
    before: Estimate | None = None
    after: Estimate | None = None
    shot: str = ""
    wanted: int = 0
    arrived: int = 0
    values: tuple[str | float, ...] = ()


@dataclass(frozen=True)
class Gain:
    """After minus before on the same rows. ``shown`` is false where the interval of ``accuracy`` holds zero.

    And where both models were trained ``otherwise``: these are the settings that differ, in words. And where it hangs
    on the ``unjudged``, names of classes that no image of the holdout has.
    """

    accuracy: Estimate
    balanced_accuracy: Estimate
    log_loss: Estimate
    p_value: float
    shown: bool
    words: str
    rows: int = 0
    disagreement: float = 0.0  #: share of the rows on which only one of both is right
    per_class: tuple[tuple[str, Estimate, bool], ...] = ()  #: class name, change of recall, shown or not
    otherwise: tuple[str, ...] = ()
    unjudged: tuple[str, ...] = ()

    @property
    def tells(self) -> bool:
        """Whether the figures, shown or not, tell of the data."""
        return not self.otherwise and not self.unjudged


@dataclass(frozen=True)
class Audit:
    """What the verdicts say of the flagger; ``None`` where it can't be known yet."""

    flagger_precision: Estimate | None = None
    flagger_recall: Estimate | None = None
    labels_wrong: Estimate | None = None
    labels_wrong_ci: Interval | None = None
    outlook: tuple[Outlook, ...] = ()
    next: Recommendation | None = None
    by_rank: tuple[tuple[str, Estimate], ...] = ()
    by_class: tuple[tuple[str, Estimate], ...] = ()
    sway: Estimate | None = None


@dataclass(frozen=True)
class Row:
    """One iteration in the table over all iterations. ``still_wrong`` needs an answer key (demos only)."""

    number: int
    labels_reviewed: int
    labels_changed: int
    accuracy: Estimate | None
    balanced_accuracy: Estimate | None
    weakest_slice: str
    still_wrong: int | None = None
    otherwise: tuple[str, ...] = ()  #: as of its gain
    size: int | None = None  #: images of the holdout that it was measured on


@dataclass(frozen=True)
class IterationSummary:
    """One iteration in full. ``confusion[i][j]`` counts holdout rows labeled ``classes[i]``, predicted ``classes[j]``.

    ``reliability`` bins are (mean confidence, accuracy, count). ``rows`` holds this and all earlier iterations, the
    first (number 0) being the model trained on the labels as given. Of the images that were reviewed, ``ambiguous`` may
    be of several classes, ``other`` of none of them.
    """

    project: str
    number: int
    classes: tuple[str, ...]
    backbone: str
    device: str
    seed: int
    counts: Mapping[str, int]
    labels_reviewed: int
    labels_changed: int
    labels_excluded: int
    contested: int
    ambiguous: int
    metrics: Metrics | None
    before: Metrics | None
    gain: Gain | None
    audit: Audit
    issues: Mapping[str, int]
    worst: tuple[Card, ...]
    changed: tuple[Card, ...]
    slices: tuple[SliceCard, ...]
    confusion: tuple[tuple[int, ...], ...]
    reliability: tuple[tuple[float, float, int], ...]
    rows: tuple[Row, ...]
    advice: tuple[str, ...]
    links: Mapping[str, str] = field(default_factory=dict)
    credits: tuple[Credit, ...] = ()
    costs: CostFigures | None = None
    cost_class: str = ""
    other: int = 0


def worst_pair(summary: IterationSummary) -> tuple[str, str, int] | None:
    """The two classes most often confused on the holdout: (labeled, predicted, count); ``None`` without errors."""
    pairs = [
        (count, -i, -j)
        for i, row in enumerate(summary.confusion)
        for j, count in enumerate(row)
        if i != j and count > 0
    ]
    if not pairs:
        return None
    count, i, j = max(pairs)
    return summary.classes[-i], summary.classes[-j], count


def percent(fraction: float, digits: int = 1) -> str:
    """A fraction for people.

    >>> percent(0.9312), percent(0.5, 0)
    ('93.1 %', '50 %')
    """
    return f"{100 * fraction:.{digits}f} %"


def interval_words(ci: Interval | None, digits: int = 1) -> str:
    """A 95 % interval of fractions for people, '' where it is not known.

    >>> interval_words((0.91, 0.954))
    '91.0 to 95.4 %'
    """
    return "" if ci is None else f"{100 * ci[0]:.{digits}f} to {100 * ci[1]:.{digits}f} %"


def estimate_words(estimate: Estimate | None, unknown: str = "not known yet") -> str:
    """A fraction with its interval for people.

    >>> estimate_words(Estimate(0.931, (0.91, 0.954)))
    '93.1 % (91.0 to 95.4 %)'
    >>> estimate_words(None)
    'not known yet'
    """
    if estimate is None:
        return unknown
    ci = interval_words(estimate.ci)
    return f"{percent(estimate.value)} ({ci})" if ci else percent(estimate.value)


def what_changed(summary: IterationSummary) -> str:
    """What people did in this iteration, in one or two sentences."""
    if summary.number == 0 and not summary.labels_reviewed:
        return "Nothing yet: this is the model trained on the labels as they were given."
    said = (
        f"{counted(summary.labels_reviewed, 'label was', 'labels were')} reviewed and {summary.labels_changed} changed"
    )
    if summary.labels_excluded:
        said += f"; {counted(summary.labels_excluded, 'image was', 'images were')} left out of training"
    open_ends = [
        words
        for words in (
            f"on {counted(summary.contested, 'image', 'images')} people disagree" if summary.contested else "",
            f"{counted(summary.ambiguous, 'fits', 'fit')} no class clearly" if summary.ambiguous else "",
            f"{counted(summary.other, 'is', 'are')} of none of the classes" if summary.other else "",
        )
        if words
    ]
    sentence = ", ".join(open_ends[:-2]) + ", " * (len(open_ends) > 2) + " and ".join(open_ends[-2:])
    return f"{said}." + (f" {sentence[:1].upper()}{sentence[1:]}." if sentence else "")


def gain_badge(gain: Gain | None) -> str:
    """The gain in at most three words; 'Better' and 'Worse' only where the interval leaves zero out.

    >>> gain_badge(None)
    'Starting point'
    """
    if gain is None:
        return "Starting point"
    if gain.otherwise:
        return "Trained otherwise"
    if not gain.shown:
        return "No change shown"
    return "Better" if gain.accuracy.value > 0 else "Worse"


def breaks(iterations: Iterable[tuple[int, Sequence[str], int | None]]) -> list[str]:
    """Where accuracies over iterations can't be compared, in sentences.

    Of each its number, the settings that differ from before, and how many images of the holdout it was measured on.

    >>> breaks([(0, (), 12), (1, ("seed 0, then 5", "backbone.size 32, then 64"), 12)])
    ['Iteration 1 was trained otherwise than the one before: seed 0, then 5; backbone.size 32, then 64.']
    >>> breaks([(0, (), None), (1, (), 12), (2, (), 52)])[0][:79]
    'Iteration 2 was measured on 52 images of the holdout, the one before on 12: the'
    """
    said, before = [], 0
    for number, settings, size in iterations:
        if settings:
            said.append(f"Iteration {number} was trained otherwise than the one before: {'; '.join(settings)}.")
        if size and before and size != before:
            said.append(
                f"Iteration {number} was measured on {size:,} images of the holdout, the one before on {before:,}: "
                "their accuracies are of different images."
            )
        before = size or before
    return said


def what_is_weak(summary: IterationSummary) -> str:
    """The weakest slice that is still open and the most confused pair, in plain sentences."""
    said = []
    open_slices = [card.slice for card in summary.slices if card.slice.status != "fixed"]
    if open_slices:
        weak = open_slices[0]  # they come weakest first; the same that the advice and the table name
        said.append(
            f"{weak.name}: {percent(weak.error_rate)} wrong ({interval_words(weak.ci)}), "
            f"elsewhere {percent(weak.rest_error_rate)}."
        )
    else:
        said.append("No group of images stands out as weaker than the rest.")
    pair = worst_pair(summary)
    if pair:
        said.append(
            f"Most often confused on the holdout: {pair[0]} taken for {pair[1]} ({counted(pair[2], 'time', 'times')})."
        )
    return " ".join(said)


def plain_values(value: Any) -> Any:
    """Records as values that JSON can hold: fields by name, paths as text, pictures as ``True``, NaN as ``None``.

    >>> plain_values(Estimate(float("nan"), (0.1, 0.2)))
    {'value': None, 'ci': [0.1, 0.2]}
    """
    if is_dataclass(value) and not isinstance(value, type):
        return {part.name: plain_values(getattr(value, part.name)) for part in fields(value)}
    if isinstance(value, Mapping):
        return {str(name): plain_values(held) for name, held in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain_values(held) for held in value]
    if isinstance(value, bytes):
        return True
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, str | int | bool) else str(value)

"""How good a model is, and whether another is better on the same rows; no figure without its 95 % interval.

Intervals: Wilson's for a proportion, Bonett and Price's (2012) for the difference of two proportions on the same rows,
and what both are for a mean of classes' proportions (``_mean_recall``, ``_mean_change``); a bootstrap for log loss.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from math import ceil, sqrt
from statistics import NormalDist
from typing import Any

import numpy as np
import numpy.typing as npt

from curation.audit import wilson_interval
from curation.errors import RecordError
from curation.records import Classes, Estimate, Interval, Metrics, Predictions

RESAMPLES = 2_000
_Z = 1.959964
#: How many numbers of a bootstrap are held in memory at once, or those of one draw where these are more.
_AT_ONCE = 1_000_000

Numbers = npt.NDArray[np.float64]
Columns = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Comparison:
    """After minus before on the same rows; ``shown`` is true where the interval of ``accuracy`` leaves zero out.

    Accuracies are fractions, the log loss (lower is better) in nats; ``p_value`` is McNemar's exact one. Nothing is
    ``shown`` of the data where both models were trained ``otherwise``, by the settings that these words name; nor where
    it hangs on classes that no row is labeled with: ``unjudged`` are their ids.
    """

    accuracy: Estimate
    balanced_accuracy: Estimate
    log_loss: Estimate
    p_value: float
    shown: bool
    words: str
    disagreement: float = 0.0  #: share of the rows on which only one of both is right
    otherwise: tuple[str, ...] = ()
    unjudged: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class _Outcomes:
    """Of each row: the column of its label and of the prediction, and the loss in nats; each of shape (rows,)."""

    truth: Columns
    predicted: Columns
    loss: Numbers

    @property
    def right(self) -> Mask:
        return np.asarray(self.predicted == self.truth, dtype=bool)

    @property
    def judged(self) -> Mask:
        """Rows taken for a class that some row is labeled with; of any other nothing tells whether it is true."""
        return np.isin(self.predicted, self.truth)


# --- measuring one model


def measure(predictions: Predictions, labels: Mapping[str, str], *, seed: int, classes: Classes) -> Metrics:
    """How good the predictions are: accuracy, balanced accuracy, log loss, and recall by class name.

    ``labels`` maps each sample of ``predictions`` to its class id. A class that no row is labeled with counts for
    nothing. Raises RecordError where there is no row, or a row without a label of these classes.
    """
    rows = _outcomes(predictions, labels)
    right = rows.right
    return Metrics(
        size=len(right),
        accuracy=_proportion(right),
        balanced_accuracy=_mean_recall(*_by_class(right, rows.truth)),
        log_loss=mean_with_interval(rows.loss, seed=seed),
        per_class={
            classes.name(predictions.class_ids[column]): _proportion(right[rows.truth == column])
            for column in np.unique(rows.truth).tolist()
        },
    )


def _outcomes(predictions: Predictions, labels: Mapping[str, str]) -> _Outcomes:
    if not len(predictions):
        raise RecordError("there is no holdout row to measure on; bring in labeled images with split 'holdout'")
    column_of = {class_id: column for column, class_id in enumerate(predictions.class_ids)}
    for sample_id in predictions.sample_ids:
        if labels.get(sample_id) not in column_of:
            raise RecordError(
                f"sample '{sample_id}' has no label among the classes that were predicted; measure labeled rows only"
            )
    truth = np.array([column_of[labels[s]] for s in predictions.sample_ids], dtype=np.int64)
    chosen = predictions.probabilities[np.arange(len(truth)), truth]
    return _Outcomes(truth, predictions.probabilities.argmax(axis=1), -np.log(np.maximum(chosen, 1e-12)))


def _proportion(right: Mask) -> Estimate:
    return Estimate(float(right.mean()), wilson_interval(int(right.sum()), len(right)))


def _by_class(counted: Mask, truth: Columns) -> tuple[Numbers, Numbers]:
    """How many rows of each class that occurs are ``counted``, and how many there are; both (classes,)."""
    sizes = np.bincount(truth).astype(np.float64)
    counts = np.bincount(truth, weights=counted.astype(np.float64))
    return np.asarray(counts[sizes > 0], dtype=np.float64), np.asarray(sizes[sizes > 0], dtype=np.float64)


def _mean_recall(right: Numbers, sizes: Numbers) -> Estimate:
    """The mean of classes' recalls, with Wilson's interval for as many rows as vary as much as it does.

    ``right`` of ``sizes`` rows are right, (classes,). A class of a row or two, or with all rows right, says nothing of
    how much its recall varies, so each is drawn towards all rows' (``_drawn``); effective sample sizes are those
    of surveys (Korn and Graubard, Survey Methodology 1998). A bootstrap of each class by itself has no width there.
    All rows say little of a rare class that makes most of the variance: by its share of that, were all recalls the
    same, it is drawn towards a half instead, where that is wider.

    >>> [round(bound, 2) for bound in _mean_recall(np.array([40.0]), np.array([40.0])).ci]
    [0.91, 1.0]
    """
    shared, alone = _drawn(right, sizes), _drawn(right, sizes, 1 / sizes / (1 / sizes).sum())
    recalls = np.where(abs(alone - 0.5) < abs(shared - 0.5), alone, shared)
    mean, value = float(recalls.mean()), float((right / sizes).mean())
    variance = float((recalls * (1 - recalls) / sizes).sum()) / len(sizes) ** 2
    rows = mean * (1 - mean) / variance
    return Estimate(value, wilson_interval(value * rows, rows))


def _mean_change(gained: Numbers, lost: Numbers, sizes: Numbers) -> Estimate:
    """The mean of classes' changes of recall; ``gained`` and ``lost`` of ``sizes`` rows, (classes,); as above."""
    up, down = _drawn(gained, sizes), _drawn(lost, sizes)
    value = float(((gained - lost) / sizes).mean())
    half = _Z * sqrt(float(((up + down - (up - down) ** 2) / sizes).sum())) / len(sizes)
    return Estimate(value, (max(-1.0, value - half), min(1.0, value + half)))


def _drawn(counts: Numbers, sizes: Numbers, alone: Numbers | float = 0.0) -> Numbers:
    """Shares of classes, (classes,), drawn towards that of all rows as if by two rows more, and that towards a half.

    By ``alone``, a fraction (classes,), they are drawn towards a half at once.
    """
    share = (counts.sum() + 2) / (sizes.sum() + 4)
    return np.asarray((counts + 2 * (share + alone * (0.5 - share))) / (sizes + 2))


def mean_with_interval(values: Numbers, *, resamples: int = RESAMPLES, seed: int = 0) -> Estimate:
    """The mean of values (rows,), with a bootstrap interval (percentiles)."""
    rng = np.random.default_rng(seed)
    at_once = max(_AT_ONCE // max(len(values), 1), 1)
    means = [
        values[rng.integers(len(values), size=(min(at_once, resamples - start), len(values)))].mean(axis=1)
        for start in range(0, resamples, at_once)
    ]
    low, high = np.percentile(np.concatenate(means), [2.5, 97.5])
    return Estimate(float(values.mean()), (float(low), float(high)))


# --- comparing two models


def changed_settings(before: Mapping[str, Any], after: Mapping[str, Any]) -> tuple[str, ...]:
    """The settings that differ between two models, in words; of those only that are known of both.

    >>> changed_settings({"seed": 0, "backbone.size": 32}, {"seed": 0, "backbone.size": 128, "bits": 16})
    ('backbone.size 32, then 128',)
    """
    other = {name: (before[name], now) for name, now in after.items() if name in before and before[name] != now}
    if "backbone.name" in other:  # another network has other weights
        other.pop("backbone.weights", None)
    return tuple("other backbone.weights" if n == "backbone.weights" else f"{n} {a}, then {b}"
                 for n, (a, b) in other.items())  # fmt: skip


def compare(
    before: Predictions,
    after: Predictions,
    labels: Mapping[str, str],
    *,
    seed: int,
    otherwise: Sequence[str] = (),
    unjudged: Collection[str] = (),
) -> Comparison:
    """Is ``after`` better than ``before``? Both on the rows of ``before``, labeled by ``labels`` (class ids).

    ``otherwise`` are settings by which they were trained and that differ: the difference is told, and called no gain.
    Nor is it one where rows decide that either takes for a class that no row is labeled with, or where that is known
    of some classes (``unjudged``).
    Raises RecordError where there is no row, a row is missing in ``after``, or the classes differ.
    """
    if before.class_ids != after.class_ids:
        raise RecordError(f"both must predict the same classes, got {before.class_ids} and {after.class_ids}")
    old, new = _outcomes(before, labels), _outcomes(after.take(before.sample_ids), labels)
    won, gone = new.right & ~old.right, old.right & ~new.right
    gained, lost, rows = int(won.sum()), int(gone.sum()), len(won)
    ups, sizes = _by_class(won, old.truth)
    interval = paired_interval(gained, lost, rows)
    accuracy = Estimate((gained - lost) / rows, interval)
    blind = np.concatenate([old.predicted[won & ~old.judged], new.predicted[gone & ~new.judged]])
    judged = paired_interval(int((won & old.judged).sum()), int((gone & new.judged).sum()), rows)
    decided = np.unique(blind).tolist() if _leaves_zero_out(interval) != _leaves_zero_out(judged) else []
    untold = {*unjudged, *(before.class_ids[column] for column in decided)}
    shown = _leaves_zero_out(interval) and not otherwise and not untold
    return Comparison(
        accuracy=accuracy,
        balanced_accuracy=_mean_change(ups, _by_class(gone, old.truth)[0], sizes),
        log_loss=mean_with_interval(new.loss - old.loss, seed=seed),
        p_value=mcnemar(gained, lost),
        shown=shown,
        words=_words(accuracy, shown, gained, lost, rows, otherwise, len(blind), tells=not untold),
        disagreement=(gained + lost) / rows,
        otherwise=tuple(otherwise),
        unjudged=tuple(c for c in before.class_ids if c in untold),
    )


def _leaves_zero_out(interval: Interval) -> bool:
    return not interval[0] <= 0 <= interval[1]


@dataclass(frozen=True)
class ClassChange:
    """After minus before in the recall of one class (by id), a fraction; ``shown`` after correction for the others."""

    class_id: str
    recall: Estimate
    rows: int
    shown: bool


def class_changes(before: Predictions, after: Predictions, labels: Mapping[str, str]) -> tuple[ClassChange, ...]:
    """How the recall of each class changed on the rows of ``before``, the largest fall first.

    Many figures are looked at, so a change is shown only where McNemar's test holds after Holm's correction (1979) for
    as many classes as have rows, with and without the rows that are taken for a class that no row is labeled with.
    Raises RecordError as ``compare`` does.
    """
    if before.class_ids != after.class_ids:
        raise RecordError(f"both must predict the same classes, got {before.class_ids} and {after.class_ids}")
    old, new = _outcomes(before, labels), _outcomes(after.take(before.sample_ids), labels)
    won, gone = new.right & ~old.right, old.right & ~new.right
    found = []
    for column in np.unique(old.truth).tolist():
        own = old.truth == column
        gained, lost = int((won & own).sum()), int((gone & own).sum())
        size = int(own.sum())
        recall = Estimate((gained - lost) / size, paired_interval(gained, lost, size))
        judged = int((won & own & old.judged).sum()), int((gone & own & new.judged).sum())
        found.append((before.class_ids[column], recall, size, max(mcnemar(gained, lost), mcnemar(*judged))))
    shown = _holm([p for *_, p in found])
    changes = [ClassChange(c, r, n, s) for (c, r, n, _), s in zip(found, shown, strict=True)]
    return tuple(sorted(changes, key=lambda change: (change.recall.value, change.class_id)))


def _holm(p_values: Sequence[float], level: float = 0.05) -> list[bool]:
    """Which tests reject when all are looked at (Holm, Scandinavian Journal of Statistics 6, 1979)."""
    rejected = [False] * len(p_values)
    for place, number in enumerate(sorted(range(len(p_values)), key=lambda n: p_values[n])):
        if p_values[number] > level / (len(p_values) - place):
            break
        rejected[number] = True
    return rejected


def paired_interval(gained: int, lost: int, rows: int, level: float = 0.95) -> Interval:
    """The interval of a difference in accuracy on the same rows (Bonett and Price 2012), as fractions.

    ``gained`` rows are right only after, ``lost`` ones only before. Holds its 95 % on few rows too, where a bootstrap
    of a handful of rows that differ is too sure of itself.

    >>> tuple(round(bound, 3) for bound in paired_interval(30, 10, 1000))
    (0.007, 0.033)
    """
    up, down = (gained + 1) / (rows + 2), (lost + 1) / (rows + 2)
    z = _Z if level == 0.95 else NormalDist().inv_cdf(0.5 + level / 2)
    half = z * sqrt((up + down - (up - down) ** 2) / (rows + 2))
    return (max(-1.0, up - down - half), min(1.0, up - down + half))


def mcnemar(gained: int, lost: int) -> float:
    """The exact two-sided p-value that rows are gained and lost by chance alone (McNemar 1947).

    >>> mcnemar(9, 1)
    0.021484375
    """
    from scipy.stats import binomtest

    return float(binomtest(gained, gained + lost, 0.5).pvalue) if gained + lost else 1.0


def _words(
    accuracy: Estimate, shown: bool, gained: int, lost: int, rows: int, otherwise: Sequence[str], blind: int,
    *, tells: bool,
) -> str:  # fmt: skip
    low, high = accuracy.ci or (accuracy.value, accuracy.value)
    said = (
        f"{100 * accuracy.value:+.1f} points of accuracy ({100 * low:+.1f} to {100 * high:+.1f}) on {rows} images, "
        f"{gained} newly right and {lost} newly wrong"
    )
    if blind and tells:
        said += f", {blind} of these by a class that no holdout image has"
    if otherwise:
        return (
            f"Trained otherwise than the iteration before ({'; '.join(otherwise)}), so that this is not what changed "
            f"labels were worth: {said}."
        )
    if not tells:
        return f"No change shown: {said}; it hangs on labels of a class that no holdout image has."
    if not shown:
        return f"No change shown: {said}; the interval includes zero."
    return f"{'Better' if accuracy.value > 0 else 'Worse'}: {said}."


def needed_rows(disagreement: float, rows: int, gain: float = 0.01) -> int:
    """How many holdout rows show a gain in accuracy, where two models disagree on this share of so many ``rows``.

    Half the width of the paired interval, 1.96 sqrt(disagreement / rows), must not exceed the gain; they are taken to
    disagree on two rows more, as ``paired_interval`` has it: that few rows show none says little of others.

    >>> needed_rows(0.05, 10_000), needed_rows(0.0, 24)
    (1929, 2955)
    """
    return ceil(_Z**2 * (disagreement * rows + 2) / (rows + 2) / gain**2)


def too_few_words(rows: int, needed: int) -> str:
    """Says that a holdout of so many rows can't show a gain of one point, which takes ``needed``.

    >>> too_few_words(524, 2689)
    'The holdout of 524 images is too small to show a gain of one point: about 2,689 are needed.'
    """
    return f"The holdout of {rows:,} images is too small to show a gain of one point: about {needed:,} are needed."


# --- looking closer


def confusion(predictions: Predictions, labels: Mapping[str, str]) -> tuple[tuple[int, ...], ...]:
    """How many rows are labeled with class i (outer) and predicted as class j (inner), in the order of the classes.

    Raises RecordError as ``measure`` does.
    """
    rows = _outcomes(predictions, labels)
    count = len(predictions.class_ids)
    table = np.bincount(rows.truth * count + rows.predicted, minlength=count**2).reshape(count, count)
    return tuple(tuple(row) for row in table.tolist())


def reliability(
    predictions: Predictions, labels: Mapping[str, str], bins: int = 10
) -> tuple[tuple[float, float, int], ...]:
    """Mean confidence, accuracy and count of rows for each of ``bins`` equal ranges of confidence that holds any.

    Confidence is the probability of the predicted class. Raises RecordError as ``measure`` does.
    """
    rows = _outcomes(predictions, labels)
    confidence = predictions.probabilities.max(axis=1)
    number = np.minimum((confidence * bins).astype(int), bins - 1)
    held = [number == found for found in np.unique(number)]
    return tuple((float(confidence[b].mean()), float(rows.right[b].mean()), int(b.sum())) for b in held)

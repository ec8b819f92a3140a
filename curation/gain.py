"""How good a model is, and whether another is better on the same rows; no figure without its interval."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from curation.audit import wilson_interval
from curation.errors import RecordError
from curation.records import Classes, Estimate, Metrics, Predictions

RESAMPLES = 2_000
BATCH = 200

Numbers = npt.NDArray[np.float64]
Columns = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Comparison:
    """After minus before, with 95 % intervals; ``shown`` where the interval of accuracy excludes zero."""

    accuracy: Estimate
    balanced_accuracy: Estimate
    log_loss: Estimate
    p_value: float
    shown: bool
    words: str


def measure(predictions: Predictions, labels: Mapping[str, str], *, seed: int, classes: Classes) -> Metrics:
    """Accuracy and per-class recall with Wilson intervals, balanced accuracy and log loss with bootstrap ones.

    ``labels`` maps each sample of ``predictions`` to its class id. Raises RecordError where there is no row.
    """
    truth, predicted, loss = _outcomes(predictions, labels)
    right = predicted == truth
    per_class = {classes.name(predictions.class_ids[c]): _share(right[truth == c]) for c in np.unique(truth).tolist()}
    weights = _resamples(truth, seed)
    return Metrics(
        size=len(truth),
        accuracy=_share(right),
        balanced_accuracy=_with_interval(_balanced(right, truth, weights)),
        log_loss=_with_interval(_means(loss, weights)),
        per_class=per_class,
    )


def compare(before: Predictions, after: Predictions, labels: Mapping[str, str], *, seed: int) -> Comparison:
    """Is ``after`` better than ``before`` on the same rows? Paired bootstrap intervals and McNemar's exact test."""
    after = after.take(before.sample_ids)
    truth, predicted_before, loss_before = _outcomes(before, labels)
    _, predicted_after, loss_after = _outcomes(after, labels)
    right_before, right_after = predicted_before == truth, predicted_after == truth
    weights = _resamples(truth, seed)
    accuracy = _with_interval(_means(right_after.astype(float) - right_before, weights))
    balanced = _with_interval(_balanced(right_after, truth, weights) - _balanced(right_before, truth, weights))
    loss = _with_interval(_means(loss_after - loss_before, weights))
    shown = accuracy.ci is not None and (accuracy.ci[0] > 0 or accuracy.ci[1] < 0)
    p_value = mcnemar(int((right_after & ~right_before).sum()), int((right_before & ~right_after).sum()))
    return Comparison(accuracy, balanced, loss, p_value, shown, _words(accuracy, shown, len(truth)))


def mcnemar(gained: int, lost: int) -> float:
    """Two-sided exact p-value that rows gained and lost are equally likely (McNemar 1947).

    >>> mcnemar(9, 1)
    0.021484375
    """
    from scipy.stats import binomtest

    return float(binomtest(gained, gained + lost, 0.5).pvalue) if gained + lost else 1.0


def confusion(predictions: Predictions, labels: Mapping[str, str]) -> tuple[tuple[int, ...], ...]:
    """Counts of rows labeled i (outer) and predicted j (inner), in the order of the classes."""
    truth, predicted, _ = _outcomes(predictions, labels)
    count = len(predictions.class_ids)
    table = np.zeros((count, count), dtype=np.int64)
    np.add.at(table, (truth, predicted), 1)
    return tuple(tuple(row) for row in table.tolist())


def reliability(
    predictions: Predictions, labels: Mapping[str, str], bins: int = 10
) -> tuple[tuple[float, float, int], ...]:
    """For each bin of confidence that holds a row: mean confidence, accuracy, count."""
    truth, predicted, _ = _outcomes(predictions, labels)
    confidence = predictions.probabilities.max(axis=1)
    number = np.minimum((confidence * bins).astype(int), bins - 1)
    found = []
    for b in np.unique(number).tolist():
        here = number == b
        found.append((float(confidence[here].mean()), float((predicted == truth)[here].mean()), int(here.sum())))
    return tuple(found)


def needed_rows(disagreement: float, gain: float = 0.01) -> int:
    """Holdout rows needed to see a gain in accuracy, where before and after disagree on a share of the rows.

    Half the width of the paired interval, 1.96 sqrt(disagreement / n), must be below the gain.

    >>> needed_rows(0.05)
    1921
    """
    return int(np.ceil(1.96**2 * disagreement / gain**2))


def _outcomes(predictions: Predictions, labels: Mapping[str, str]) -> tuple[Columns, Columns, Numbers]:
    """Columns of the labels and of the predictions, and the loss of each row in nats."""
    if not len(predictions):
        raise RecordError("there is no holdout row to measure on; bring in labeled images with split 'holdout'")
    column = {class_id: number for number, class_id in enumerate(predictions.class_ids)}
    truth = np.array([column[labels[s]] for s in predictions.sample_ids], dtype=np.int64)
    chosen = predictions.probabilities[np.arange(len(truth)), truth]
    return truth, predictions.probabilities.argmax(axis=1), -np.log(np.clip(chosen, 1e-12, 1))


def _share(right: npt.NDArray[np.bool_]) -> Estimate:
    return Estimate(float(right.mean()), wilson_interval(int(right.sum()), len(right)))


def _resamples(truth: Columns, seed: int) -> npt.NDArray[np.int16]:
    """How often each row is drawn, (resamples + 1, rows), classes kept at their size; the first row draws each once."""
    rng = np.random.default_rng(seed)
    weights = np.zeros((RESAMPLES + 1, len(truth)), dtype=np.int16)
    weights[0] = 1
    for column in np.unique(truth).tolist():
        rows = np.flatnonzero(truth == column)
        weights[1:, rows] = rng.multinomial(len(rows), np.full(len(rows), 1 / len(rows)), size=RESAMPLES)
    return weights


def _means(values: npt.NDArray[np.floating], weights: npt.NDArray[np.int16]) -> Numbers:
    return np.concatenate([
        weights[start : start + BATCH].astype(np.float64) @ values for start in range(0, len(weights), BATCH)
    ]) / len(values)  # fmt: skip


def _balanced(right: npt.NDArray[np.bool_], truth: Columns, weights: npt.NDArray[np.int16]) -> Numbers:
    recalls = [_means(right[truth == c].astype(float), weights[:, truth == c]) for c in np.unique(truth).tolist()]
    return np.asarray(np.mean(recalls, axis=0))


def _with_interval(draws: Numbers) -> Estimate:
    low, high = np.percentile(draws[1:], [2.5, 97.5])
    return Estimate(float(draws[0]), (float(low), float(high)))


def _words(accuracy: Estimate, shown: bool, rows: int) -> str:
    low, high = accuracy.ci or (accuracy.value, accuracy.value)
    span = f"{100 * accuracy.value:+.1f} points of accuracy ({100 * low:+.1f} to {100 * high:+.1f}) on {rows} images"
    if not shown:
        return f"No change shown: {span}; the interval includes zero."
    return f"{'Better' if accuracy.value > 0 else 'Worse'}: {span}."

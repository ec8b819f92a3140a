"""Which labels to flag: how probably each is wrong, and how many of the worst are worth a look.

cleanlab is asked here for the confident joint.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from curation.regression import apply_temperature, log_loss, temperature
from curation.scoring import Floats, Integers, label_quality

Mask = npt.NDArray[np.bool_]

#: How much of the largest expected F1 is given for fewer flags (docs/log.md).
FLAT = 0.002
#: Predictions know nothing of labels where their log loss is above this share of what the shares of classes have.
_KNOWS_NOTHING = 0.995


def doubtful_labels(probabilities: Floats, labels: Integers) -> Mask:
    """Which labels to flag, shape (samples,): as many of the worst as make the expected F1 largest.

    ``probabilities`` (samples, classes) are out of sample, ``labels`` (samples,) their columns. cleanlab's confident
    joint gives how often each true class is labeled as each other; with the calibrated probabilities that says how
    probably each label is wrong (Bayes), and so how many errors the worst k labels hold, for every k. A label that the
    model finds the most probable is never flagged. Neither rule does alone: cleanlab's own count misses four in ten of
    the errors where the model is accurate, and "predicted is not given" flags three times too many where it is not.
    Nothing is flagged where the predictions know no more of the labels than how many there are of each class.
    """
    predicted = probabilities.argmax(axis=1)
    doubted: Mask = predicted != labels
    if not doubted.any():
        return doubted
    logits = np.log(np.maximum(probabilities, 1e-12))
    calibrated = apply_temperature(logits, temperature(logits, labels))
    shares = np.log(_shares_without(labels, probabilities.shape[1]))
    known = log_loss(apply_temperature(shares, temperature(shares, labels)), labels)
    if log_loss(calibrated, labels) > _KNOWS_NOTHING * known:
        return np.zeros(len(labels), dtype=bool)
    wrong = wrong_probability(calibrated, labels)
    order = np.argsort(label_quality(probabilities, labels), kind="stable")
    flagged = np.zeros(len(labels), dtype=bool)
    flagged[order[: best_count(wrong[order], float(wrong.sum()))]] = True
    return flagged & doubted


def _shares_without(labels: Integers, n_classes: int) -> Floats:
    """How common each class is among the other samples, shape (samples, classes), none quite impossible."""
    counts = np.bincount(labels, minlength=n_classes) - np.eye(n_classes)[labels] + 1 / n_classes
    return np.asarray(counts / counts.sum(axis=1, keepdims=True))


def best_count(wrong: Floats, errors: float) -> int:
    """How many of the first labels to flag: the fewest whose expected F1 is within ``FLAT`` of the largest.

    ``wrong`` is how probably each label is wrong, worst first, ``errors`` how many are expected in all. The maximum is
    flat: many more flags hardly change F1, but where no label is wrong at all each of them is somebody's lost time.

    >>> best_count(np.array([0.9, 0.8, 0.1, 0.1]), 1.9)
    2
    """
    found = 2 * np.cumsum(wrong) / (np.arange(1, len(wrong) + 1) + errors)
    return int(np.flatnonzero(found >= (1 - FLAT) * found.max())[0]) + 1


def wrong_probability(probabilities: Floats, labels: Integers) -> Floats:
    """How probably each label is wrong, shape (samples,), from calibrated probabilities and cleanlab's joint."""
    from cleanlab.count import compute_confident_joint  # cleanlab takes a second to import

    present, columns = np.unique(labels, return_inverse=True)
    own = probabilities[:, present] / np.maximum(probabilities[:, present].sum(axis=1, keepdims=True), 1e-12)
    joint = np.asarray(compute_confident_joint(columns, own, calibrate=True), dtype=np.float64)
    given_true = joint / np.maximum(joint.sum(axis=0, keepdims=True), 1e-12)
    both = own * given_true[columns]
    return np.asarray(1 - both[np.arange(len(labels)), columns] / np.maximum(both.sum(axis=1), 1e-12))

"""Which labels to flag: how probably each is wrong, and how many of the worst are worth a look.

cleanlab is asked here for the confident joint.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from curation.regression import apply_temperature, log_loss, temperature
from curation.scoring import Floats, Integers, label_quality

Mask = npt.NDArray[np.bool_]

#: Predictions know nothing of labels where their log loss is above this share of what the shares of classes have.
_KNOWS_NOTHING = 0.995
#: What cleanlab's confident joint weighs beside the labels themselves where label noise is estimated. Of 0.4 to 1 the
#: one that flags fewest true labels while F1 stays (docs/log.md).
_JOINT_WEIGHS = 0.4
_STEPS = 20
#: With so many errors for each confusion of two classes half of the estimated noise is believed (docs/log.md).
_ERRORS_TO_BELIEVE = 20
#: Label noise is estimated on so many samples at most, drawn without looking at labels.
_ESTIMATED_ON = 50_000


@dataclass(frozen=True, eq=False)
class Judged:
    """Labels judged, all of shape (samples,).

    ``quality`` says how right each looks, 0 worst, 1 best: ``adjusted_quality``, or cleanlab's self-confidence where no
    label is in doubt or the predictions know nothing. ``flagged`` says which should be reviewed.
    """

    quality: Floats
    flagged: Mask


def judge_labels(probabilities: Floats, labels: Integers, groups: Integers | None = None) -> Judged:
    """How right each label looks, and which to flag: as many of the worst as make the expected F1 largest.

    ``probabilities`` (samples, classes) are out of sample, ``labels`` (samples,) their columns. How probably each
    label is wrong (``LabelNoise.wrong``) says how many errors the worst k labels hold, for every k, where the worst
    are those with the least probability of their own. A label that the model finds the most probable is never flagged.
    Neither rule does alone: cleanlab's own count misses four in ten of the errors where the model is accurate, and
    "predicted is not given" flags three times too many where it is not. Nothing is flagged where the predictions know
    no more of the labels than how many there are of each class. Nor is a label whose class has images of no other
    group: the model that judged it did not know the class, so its doubt is no evidence. ``groups`` (samples,) are what
    was left out together, by default each sample alone.
    """
    confidence = label_quality(probabilities, labels)
    nothing = Judged(confidence, np.zeros(len(labels), dtype=bool))
    known = _in_several_groups(labels, np.arange(len(labels)) if groups is None else groups)
    doubted: Mask = (probabilities.argmax(axis=1) != labels) & known
    if not doubted.any() or _know_nothing(probabilities, labels):
        return nothing
    noise = fit_noise(probabilities, labels)
    wrong = noise.wrong(probabilities, labels)
    quality = adjusted_quality(probabilities, labels, noise, float(wrong.sum()))
    by_confidence, by_quality = (order[known[order]] for order in map(_worst_first, (confidence, quality)))
    flagged = np.zeros(len(labels), dtype=bool)
    flagged[by_quality[: best_count(wrong[by_confidence], float(wrong[known].sum()))]] = True
    return Judged(quality, flagged & doubted)


def adjusted_quality(probabilities: Floats, labels: Integers, noise: LabelNoise, errors: float) -> Floats:
    """The probability of each label, (samples,), that of every class weighed by how often it is labeled so.

    With one rate of errors for all confusions of classes this is cleanlab's self-confidence. A confusion that is more
    common than that makes a label that may be one more doubtful. How much of the noise that was estimated is believed
    is a matter of how many of the ``errors`` there are for each rate that may differ: of ninety confusions, four each
    tell nothing (shrinkage; ``_ERRORS_TO_BELIEVE`` of each are believed by half). Together they have the rate of all,
    so one fewer is free.
    """
    present, n_classes, count = noise.present, len(noise.present), len(labels)
    free = max(n_classes * (n_classes - 1) - 1, 0)
    believed = errors / max(errors + _ERRORS_TO_BELIEVE * free, 1e-300)
    even = np.full((n_classes, n_classes), errors / count / max(n_classes - 1, 1))
    even[np.diag_indices(n_classes)] = 1 - errors / count
    weights = believed * noise.rates / np.maximum(even, 1e-300) + 1 - believed
    quality = np.zeros(count)
    for place, column in enumerate(present):
        rows = np.flatnonzero(labels == column)
        shares = probabilities[rows]
        shares[:, present] *= weights[place]
        quality[rows] = shares[:, column] / np.maximum(shares.sum(axis=1), 1e-300)
    return quality


def best_count(wrong: Floats, errors: float) -> int:
    """How many of the first labels to flag: the fewest whose expected F1 is the largest.

    ``wrong`` is how probably each label is wrong, worst first, ``errors`` how many are expected in all.

    >>> best_count(np.array([0.9, 0.8, 0.1, 0.1]), 1.9)
    2
    """
    return int((np.cumsum(wrong) / (np.arange(1, len(wrong) + 1) + errors)).argmax()) + 1


@dataclass(frozen=True, eq=False)
class LabelNoise:
    """How often each class (column) is labeled as each (row), columns summing to 1; and the model's certainty.

    ``present`` are the columns of probabilities that ``rates`` are about, ``scale`` what to multiply logits by.
    """

    present: Integers
    rates: Floats
    scale: float

    def wrong(self, probabilities: Floats, labels: Integers) -> Floats:
        """How probably each of the labels, (samples,), is wrong, by Bayes' rule; each a column that is present."""
        logits, columns = (
            np.log(np.maximum(probabilities[:, self.present], 1e-12)),
            np.searchsorted(self.present, labels),
        )
        both = apply_temperature(logits, 1 / self.scale) * self.rates[columns]
        own = both[np.arange(len(labels)), columns]
        return np.asarray(1 - own / np.maximum(both.sum(axis=1), 1e-300))


def fit_noise(probabilities: Floats, labels: Integers) -> LabelNoise:
    """The label noise, and how sure the model should be.

    Out-of-sample ``probabilities`` (samples, classes), brought to another temperature, are taken for those of the true
    class, of which the given one is made by label noise: how often each class is labeled as each other. Temperature
    and noise are fitted together by expectation maximisation on the given ``labels`` (samples,), columns of
    ``probabilities`` (the model of Bekker and Goldberger, ICASSP 2016, on predictions that stay as they are).
    cleanlab's confident joint is where that begins, and weighs in as ``_JOINT_WEIGHS`` of the samples, since labels
    alone can't tell noise from a model that is unsure.
    """
    present, columns = np.unique(labels, return_inverse=True)
    drawn: Integers | slice = slice(None)
    if len(labels) > _ESTIMATED_ON:
        drawn = np.random.default_rng(0).permutation(len(labels))[:_ESTIMATED_ON]
    logits = np.log(np.maximum(probabilities[drawn][:, present], 1e-12))
    rates, scale = _label_noise(logits, columns[drawn])
    return LabelNoise(present, rates, scale)


def _label_noise(logits: Floats, labels: Integers) -> tuple[Floats, float]:
    """How often a class (column) is labeled as each (row), each column summing to 1, and what to multiply logits by.

    Each step takes what the true classes probably are, then the noise that explains the labels best, and one Newton
    step of the scale (whose likelihood is concave).
    """
    from cleanlab.count import compute_confident_joint  # cleanlab takes a second to import
    from scipy.sparse import csr_matrix

    present = np.unique(labels)
    scale = 1 / temperature(logits, labels)
    classes = apply_temperature(logits, 1 / scale)
    joint = np.zeros((logits.shape[1],) * 2)
    own = classes[:, present] / np.maximum(classes[:, present].sum(axis=1, keepdims=True), 1e-12)
    joint[np.ix_(present, present)] = compute_confident_joint(np.searchsorted(present, labels), own, calibrate=True)
    joint[np.diag_indices(len(joint))] += 1e-6  # a class that nobody drawn has keeps its label
    joint *= _JOINT_WEIGHS
    noise = joint / joint.sum(axis=0)
    indicators = csr_matrix((np.ones(len(labels)), (labels, np.arange(len(labels)))), (logits.shape[1], len(labels)))
    for _ in range(_STEPS):
        true = classes * noise[labels]
        true /= np.maximum(true.sum(axis=1, keepdims=True), 1e-300)
        counts = joint + indicators @ true
        noise = counts / counts.sum(axis=0)
        mean = (classes * logits).sum(axis=1)
        slope = float((true * logits).sum() - mean.sum())
        bend = float((classes * logits**2).sum() - (mean**2).sum())
        scale = float(np.clip(scale + slope / max(bend, 1e-12), scale / 2, scale * 2))
        classes = apply_temperature(logits, 1 / scale)
    return noise, scale


def _worst_first(quality: Floats) -> Integers:
    return np.argsort(quality, kind="stable")


def _in_several_groups(labels: Integers, groups: Integers) -> Mask:
    """Whether the class of each label, (samples,), has samples of other groups as well."""
    one_of = np.zeros(int(labels.max(initial=0)) + 1, dtype=np.int64)
    one_of[labels] = groups  # whichever comes last
    return np.asarray(np.bincount(labels, groups != one_of[labels])[labels] > 0)


def _know_nothing(probabilities: Floats, labels: Integers) -> bool:
    """Do the shares of classes alone tell as much of the labels?"""
    logits = np.log(np.maximum(probabilities, 1e-12))
    counts = np.bincount(labels, minlength=probabilities.shape[1]) - np.eye(probabilities.shape[1])[labels]
    shares = counts + 1 / probabilities.shape[1]  # of the others, none quite impossible
    shares = np.log(shares / shares.sum(axis=1, keepdims=True))
    known = log_loss(apply_temperature(shares, temperature(shares, labels)), labels)
    return log_loss(apply_temperature(logits, temperature(logits, labels)), labels) > _KNOWS_NOTHING * known

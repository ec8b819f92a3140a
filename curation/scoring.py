"""Out-of-sample class probabilities from features, and from them the quality of each label.

No label is judged by a model that has seen it, nor a near-duplicate of it, nor its group (``regression.py``). The
surest errors that a first round finds are corrected for a second one, so that fewer wrong labels are learned from.
cleanlab is asked here for the quality of a label; in ``flagging.py`` and ``issues.py`` for everything else.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
import numpy.typing as npt

from curation.errors import InputError, RecordError
from curation.records import Rows
from curation.regression import Inputs, Method, choose_regressions

Floats = npt.NDArray[np.float64]
Features = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int64]
Quality = Literal["self_confidence", "normalized_margin", "log_margin"]

#: A label is corrected for the second round where its class has less than this share of what it and the best other
#: class are given together; the best of 0.1, 0.15 and 0.2 on one half of CIFAR-10N (docs/log.md).
DOUBT = 0.15
#: The first round's share in the probabilities: it knows better how many labels are wrong, the second which ones.
FIRST_ROUND = 0.3
_WORDS = {
    "auto": "mean of leave-one-out logistic and kernel regression, on labels corrected by a first round",
    "folds": "logistic regression in folds",
    "loo": "leave-one-out logistic regression",
    "kernel": "leave-one-out kernel regression",
}


@dataclass(frozen=True, eq=False)
class OutOfSample:
    """Probabilities by models that have not seen the sample.

    ``probabilities`` has shape (samples, classes), float64, rows sum to 1. ``folds``, (samples,), is the number of the
    fold that was left out, -1 where only the sample's own group was. ``settings`` are what the method chose.
    """

    probabilities: Floats
    folds: Integers
    method: str
    settings: Mapping[str, float] = field(default_factory=dict)
    seconds: float = 0.0


def score_out_of_sample(
    features: Features,
    labels: Integers,
    n_classes: int,
    *,
    groups: Integers,
    seed: int,
    folds: int = 5,
    method: Method = "auto",
    settled: npt.NDArray[np.bool_] | None = None,
    widths: Sequence[int] = (),
) -> OutOfSample:
    """Class probabilities of every sample by models that have not seen it, its near-duplicates or its group.

    ``features`` has shape (samples, dimensions), ``labels`` (samples,) with columns below ``n_classes``, ``groups``
    (samples,) with any whole numbers; a group is never divided. Methods:

    - ``folds``: logistic regression in shuffled, stratified, grouped folds; strength by its own out-of-fold log loss.
    - ``loo``: one logistic fit, and one Newton step for each group that is left out (Rad and Maleki, JRSS-B 2020).
    - ``kernel``: ridge regression with a Gaussian kernel, each group left out exactly; see ``leave_out_kernel``.
    - ``auto``: the mean of the last two, which err differently (the kernel counts twice where features are made of
      several parts); then both again on labels of which the surest errors are corrected (``corrected_labels``), each
      sample still judged without its own label or group; of these rounds a weighted mean. Kernel regression alone where
      there are more than ``MOST_CLASSES`` classes.

    ``settled``, (samples,), are labels that people have confirmed or made: none of these is corrected for the second
    round. ``widths`` are those of the parts that features are made of, where there are several (``part_weights``).

    Only the strengths are chosen by labels, by the out-of-sample error; features are scaled without labels. Raises
    RecordError for arrays that don't fit together or features that are not finite, and InputError where the labels are
    all of one class or the samples all of one group.
    """
    began = time.perf_counter()
    check_shapes(features, labels, n_classes, groups)
    inputs = Inputs(features, n_classes, groups, seed=seed, widths=widths)
    found = score_inputs(inputs, labels, folds=folds, method=method, settled=settled)
    return replace(found, seconds=time.perf_counter() - began)


def score_inputs(
    inputs: Inputs,
    labels: Integers,
    *,
    folds: int = 5,
    method: Method = "auto",
    settled: npt.NDArray[np.bool_] | None = None,
) -> OutOfSample:
    """As ``score_out_of_sample``, of inputs that may have been judged with other labels before."""
    began = time.perf_counter()
    check_shapes(inputs.rows, labels, inputs.n_classes, inputs.groups)
    chosen = choose_regressions(inputs, labels, folds=folds, method=method)
    settings = dict(chosen.settings)
    probabilities = chosen.probabilities(labels, labels)
    if method == "auto":
        corrected = corrected_labels(probabilities, labels, settled)
        settings["corrected"] = float((corrected != labels).sum())
        second = chosen.probabilities(corrected, labels)
        probabilities = FIRST_ROUND * probabilities + (1 - FIRST_ROUND) * second
    return OutOfSample(probabilities, chosen.folds, _WORDS[method], settings, time.perf_counter() - began)


def corrected_labels(probabilities: Floats, labels: Integers, settled: npt.NDArray[np.bool_] | None = None) -> Integers:
    """The labels, shape (samples,), with the surest errors exchanged for the class that is predicted instead.

    Those are the labels with less than ``DOUBT`` of what they and the best other class are given. A class keeps at
    least half of its samples: a rare one, which hardly anything predicts, must not be corrected away. Labels that are
    ``settled``, shape (samples,), stay.

    >>> corrected_labels(np.array([[0.9, 0.1], [0.2, 0.8], [0.05, 0.95]]), np.array([0, 0, 0])).tolist()
    [0, 0, 1]
    """
    own, other = _own_and_other(probabilities, labels)
    share = own / np.maximum(own + other, 1e-300)
    order = np.lexsort((share, labels))
    sizes = np.bincount(labels)
    first = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    place = np.empty(len(labels), dtype=np.int64)
    place[order] = np.arange(len(labels)) - first[labels[order]]
    chosen = (share < DOUBT) & (place < sizes[labels] // 2)
    if settled is not None:
        chosen &= ~settled
    return np.asarray(np.where(chosen, probabilities.argmax(axis=1), labels), dtype=np.int64)


def check_shapes(features: Rows, labels: Integers, n_classes: int, groups: Integers) -> None:
    """Raise RecordError or InputError where labels can't be judged by these arrays; see ``score_out_of_sample``."""
    rows = (len(labels),)
    if features.ndim != 2 or features.shape[:1] != rows or labels.shape != rows or groups.shape != rows:
        raise RecordError(
            "features must have shape (samples, dimensions), labels and groups (samples,), "
            f"got {features.shape}, {labels.shape} and {groups.shape}"
        )
    if len(labels) and not 0 <= labels.min() <= labels.max() < n_classes:
        raise RecordError(f"labels must be columns 0 to {n_classes - 1}, got {labels.min()} to {labels.max()}")
    if len(np.unique(labels)) < 2:
        raise InputError("labels are all of one class, so nothing tells right from wrong; add images of another class")
    if len(np.unique(groups)) < 2:
        raise InputError("samples are all of one group, so none can be left out; give groups that divide the set")


def label_quality(probabilities: Floats, labels: Integers, *, score: Quality = "self_confidence") -> Floats:
    """How right each label looks, shape (samples,): 0 worst, 1 best.

    ``self_confidence`` and ``normalized_margin`` are cleanlab's: the probability of the given label, and that minus
    the best other one, halved and raised to [0, 1]. ``log_margin`` is p / (p + best other): it ranks by the margin of
    log probabilities. Raises RecordError where the shapes don't fit.
    """
    if probabilities.ndim != 2 or labels.shape != probabilities.shape[:1]:
        raise RecordError(
            "probabilities must have shape (samples, classes) and labels (samples,), "
            f"got {probabilities.shape} and {labels.shape}"
        )
    if not len(labels):
        return np.zeros(0)
    if score == "log_margin":
        own, other = _own_and_other(probabilities, labels)
        return np.asarray(own / np.maximum(own + other, 1e-300))
    from cleanlab.rank import get_label_quality_scores  # cleanlab takes a second to import

    return np.asarray(np.clip(get_label_quality_scores(labels, probabilities, method=score), 0, 1), dtype=np.float64)


def _own_and_other(probabilities: Floats, labels: Integers) -> tuple[Floats, Floats]:
    """The probability of the given class, and the largest of the others; both (samples,)."""
    rows = np.arange(len(labels))
    others = probabilities.copy()
    others[rows, labels] = -1
    return probabilities[rows, labels], np.maximum(others.max(axis=1), 0)

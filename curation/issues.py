"""What a person should look at, and why: wrong labels, contradictions, duplicates, outliers, poor images.

A label is flagged where cleanlab's ``find_label_issues`` finds it, or where calibrated out-of-sample probabilities favour
another class: cleanlab's own count is too low where labels are mostly right (it finds 64 % of the errors of CIFAR-10N
``aggre`` with a Swin-B, where ``argmax != given`` reaches an F1 of 0.93; computed from the probabilities that its authors
published). The order is cleanlab's label quality. Near-duplicates and outliers come from the features.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from curation.config import DetectionSettings
from curation.images import quality_issues
from curation.records import Classes, Issue, Predictions, Sample
from curation.scoring import DUPLICATE_SIMILARITY, Features, label_quality, near_pairs, nearest

if TYPE_CHECKING:
    import pandas as pd

NEIGHBOURS = 10
SHOWN_NEIGHBOURS = 2
OUTLIER_SHARE = 0.01


def all_issues(
    samples: Sequence[Sample],
    labels: Sequence[str],
    predictions: Predictions,
    classes: Classes,
    features: Features,
    properties: pd.DataFrame,
    *,
    settings: DetectionSettings,
) -> list[Issue]:
    """Every issue of the labeled ``samples``: label issues worst first, then the other kinds.

    ``labels`` are class ids and ``features`` rows, in the order of ``samples``; ``properties`` is indexed by sample id.
    """
    ids = tuple(s.id for s in samples)
    found = find_label_issues(ids, labels, predictions, classes, features)
    if settings.duplicates:
        found += find_duplicate_issues(samples, labels, features, classes)
    found += find_outliers(ids, features)
    if settings.image_quality:
        found += quality_issues(properties.loc[list(ids)])
    return found


def find_label_issues(
    sample_ids: Sequence[str],
    labels: Sequence[str],
    predictions: Predictions,
    classes: Classes,
    features: Features,
) -> list[Issue]:
    """Labels that look wrong, worst first, each with a suggestion and a reason that a person understands.

    ``related`` holds the nearest images of the given, then of the suggested class. ``score`` is the label quality.
    """
    rows = predictions.take(sample_ids)
    columns = np.array([classes.index(c) for c in labels], dtype=np.int64)
    quality = label_quality(rows.probabilities, columns)
    flagged = np.flatnonzero(flag_labels(rows.probabilities, columns))
    order = flagged[np.lexsort(([sample_ids[row] for row in flagged], quality[flagged]))]
    near = nearest(features, order.tolist(), np.arange(len(columns)), NEIGHBOURS)
    issues = []
    for row, neighbours in zip(order.tolist(), near, strict=True):
        given = labels[row]
        suggested = _suggestion(rows.probabilities[row], columns[row], classes)
        issues.append(
            Issue(
                sample_ids[row],
                "label",
                float(quality[row]),
                _reason(rows.probabilities[row], given, suggested, columns[neighbours], classes),
                given,
                suggested,
                _related(row, (given, suggested), columns, features, sample_ids, classes),
            )
        )
    return issues


def flag_labels(probabilities: npt.NDArray[np.float64], labels: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """Which labels to flag, (samples,): cleanlab's own finds, and those that the prediction contradicts."""
    from cleanlab.filter import find_label_issues as cleanlab_issues

    contradicted = probabilities.argmax(axis=1) != labels
    if len(np.unique(labels)) < probabilities.shape[1]:
        return contradicted  # cleanlab needs every class among the labels
    found = cleanlab_issues(labels, probabilities, n_jobs=1)
    return np.asarray(found | contradicted, dtype=bool)


def _suggestion(probabilities: npt.NDArray[np.float64], given: int, classes: Classes) -> str:
    others = probabilities.copy()
    others[given] = -1
    return classes.ids[int(others.argmax())]


def _reason(
    probabilities: npt.NDArray[np.float64],
    given: str,
    suggested: str,
    neighbours: npt.NDArray[np.int64],
    classes: Classes,
) -> str:
    alike = int((neighbours == classes.index(suggested)).sum())
    return (
        f"{alike} of the {len(neighbours)} most similar images are {classes.name(suggested)}; the model gives "
        f"{classes.name(given)} {probabilities[classes.index(given)]:.0%} and "
        f"{classes.name(suggested)} {probabilities[classes.index(suggested)]:.0%}."
    )


def _related(
    row: int,
    class_ids: Sequence[str],
    columns: npt.NDArray[np.int64],
    features: Features,
    sample_ids: Sequence[str],
    classes: Classes,
) -> tuple[str, ...]:
    found: list[str] = []
    for class_id in class_ids:
        members = np.flatnonzero(columns == classes.index(class_id))
        found += [sample_ids[n] for n in nearest(features, [row], members, SHOWN_NEIGHBOURS)[0]]
    return tuple(found)


def find_duplicate_issues(
    samples: Sequence[Sample], labels: Sequence[str], features: Features, classes: Classes
) -> list[Issue]:
    """Near-duplicates, and among them the pairs that carry different labels."""
    left, right, similarity = near_pairs(features, DUPLICATE_SIMILARITY)
    partners: dict[int, list[tuple[int, float]]] = defaultdict(list)
    for a, b, how in zip(left.tolist(), right.tolist(), similarity.tolist(), strict=True):
        partners[a].append((b, how))
        partners[b].append((a, how))
    issues = []
    for row in sorted(partners):
        related = tuple(samples[other].id for other, _ in partners[row])
        closest = max(how for _, how in partners[row])
        differing = sorted({labels[other] for other, _ in partners[row]} - {labels[row]})
        if differing:
            names = ", ".join(classes.name(c) for c in differing)
            reason = f"Nearly the same picture is labeled {names}; this one {classes.name(labels[row])}."
            issues.append(Issue(samples[row].id, "label_conflict", 0.0, reason, labels[row], differing[0], related))
        words = f"Nearly the same picture as {samples[partners[row][0][0]].path}"
        more = f" and {len(related) - 1} more." if len(related) > 1 else "."
        issues.append(
            Issue(samples[row].id, "near_duplicate", float(np.clip(1 - closest, 0, 1)), words + more, related=related)
        )
    return issues


def find_outliers(sample_ids: Sequence[str], features: Features) -> list[Issue]:
    """The images least like any other: the hundredth with the lowest of cleanlab's out-of-distribution scores."""
    if len(sample_ids) < 5 * NEIGHBOURS:
        return []
    from cleanlab.outlier import OutOfDistribution

    scores = np.asarray(OutOfDistribution({"k": NEIGHBOURS}).fit_score(features=features, verbose=False))
    count = max(1, int(OUTLIER_SHARE * len(scores)))
    order = np.lexsort((list(sample_ids), scores))[:count]
    return [
        Issue(sample_ids[row], "outlier", float(np.clip(scores[row], 0, 1)), "Unlike any other image of the set.")
        for row in order.tolist()
    ]


def count_kinds(issues: Sequence[Issue]) -> Mapping[str, int]:
    """How many issues there are of each kind."""
    return Counter(issue.kind for issue in issues)

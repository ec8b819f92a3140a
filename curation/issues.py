"""What people should look at: wrong labels, duplicates, outliers; each with a reason that a person understands.

cleanlab is asked here, in ``scoring.py`` and in ``flagging.py``, nowhere else in this package.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from curation import neighbours
from curation.config import DetectionSettings
from curation.errors import RecordError
from curation.flagging import Judged, Mask, judge_labels
from curation.neighbours import Pair, join_groups, near_duplicate_pairs, nearest_neighbours, unit_directions
from curation.quality import quality_issues
from curation.records import Classes, Issue, Predictions, Sample
from curation.scoring import Features, Floats, Integers

if TYPE_CHECKING:
    import pandas as pd

#: Kinds that say something about a label, and so go to people for review.
LABEL_KINDS = ("label", "label_conflict")
#: How many neighbours a reason counts, and how many of each class are shown beside an image.
NEIGHBOURS, SHOWN = 10, 3
#: How many of the images that look the same are told beside one, of all and of the labels that are asked about.
TWINS_SHOWN = 50
#: In sets too large for an exact search, images of a class are shown from the nearest of all and so many of the class.
CONSIDERED = 1000
#: Sets with fewer images than this have no outliers: there is no telling what is usual.
_LEAST_FOR_OUTLIERS = 30
#: cleanlab's default: a class is rare with less than this much of an equal share of the labels.
RARE = 0.1
#: cleanlab's default: an outlier is further from its neighbours than Q3 + (1 / 0.37 - 1) IQR of all such distances.
_OUTLIER_FENCE = 1 / 0.37 - 1


def all_issues(
    samples: Sequence[Sample],
    labels: Sequence[str],
    predictions: Predictions,
    classes: Classes,
    features: Features,
    properties: pd.DataFrame | None = None,
    *,
    settings: DetectionSettings | None = None,
    pairs: Sequence[Pair] | None = None,
    judged: Judged | None = None,
    brought: Mapping[str, Sequence[str]] | None = None,
) -> list[Issue]:
    """Everything that is odd about labeled samples: about labels first, worst first, then about images.

    ``labels`` are class ids, ``features`` has shape (samples, dimensions), both in the order of ``samples``;
    ``predictions`` are out of sample, in the same order; ``properties`` is what ``measure_properties`` gives, indexed
    by sample id; ``pairs`` are the set's near-duplicates, ``judged`` its labels (``judge_labels``), worked out where
    none are given; ``brought`` has the class ids that one picture came with, by sample id, where they are several.
    Raises RecordError where lengths differ.
    """
    wanted = settings or DetectionSettings()
    ids = [s.id for s in samples]
    _check(ids, labels, predictions, features)
    judged = judged or judge_labels(predictions.probabilities, _columns(labels, predictions))
    found = find_label_issues(ids, labels, predictions, classes, features, judged)
    if wanted.duplicates:
        found += find_duplicate_issues(samples, labels, predictions, classes, features, pairs=pairs, judged=judged)
        known = {i.sample_id for i in found if i.kind == "label_conflict"}
        rows = {s: row for row, s in enumerate(ids) if s in (brought or {}) and s not in known}
        found += [
            _brought_conflict(s, labels[row], (brought or {})[s], predictions, classes, row, float(judged.quality[row]))
            for s, row in rows.items()
        ]
    found.sort(key=lambda i: (i.kind not in LABEL_KINDS, i.score, i.sample_id))
    found += find_outliers(ids, features)
    found += find_rare_classes(ids, labels, classes)
    if wanted.image_quality and properties is not None:
        found += quality_issues(properties.loc[ids])
    return found


# --- labels


def find_label_issues(
    sample_ids: Sequence[str],
    labels: Sequence[str],
    predictions: Predictions,
    classes: Classes,
    features: Features,
    judged: Judged | None = None,
) -> list[Issue]:
    """Labels that are probably wrong, worst first, as issues of kind ``label``; which ones, see ``judge_labels``.

    ``labels`` are class ids. ``suggested`` is the most probable class; ``related`` are up to three nearest images of
    the given class, then up to three of the suggested one. Raises RecordError where lengths differ.
    """
    _check(sample_ids, labels, predictions, features)
    columns = _columns(labels, predictions)
    probabilities = predictions.probabilities
    judged = judged or judge_labels(probabilities, columns)
    quality = judged.quality
    rows = sorted(np.flatnonzero(judged.flagged).tolist(), key=lambda row: (quality[row], sample_ids[row]))
    suggested = probabilities.argmax(axis=1)
    alike = _Alike(features, columns)
    issues = []
    for row in rows:
        given, other = int(columns[row]), int(suggested[row])
        ordered = alike.to(row, (given, other))
        near = ordered[:NEIGHBOURS]
        issues.append(
            Issue(
                sample_ids[row],
                "label",
                float(quality[row]),
                label_reason(
                    classes.name(labels[row]),
                    classes.name(predictions.class_ids[other]),
                    probabilities[row, [given, other]].tolist(),
                    [int((columns[near] == c).sum()) for c in (given, other)],
                    len(near),
                ),
                given=labels[row],
                suggested=predictions.class_ids[other],
                related=tuple(sample_ids[r] for c in (given, other) for r in ordered[columns[ordered] == c][:SHOWN]),
            )
        )
    return issues


def label_reason(
    given: str, suggested: str, probabilities: Sequence[float], neighbours: Sequence[int], asked: int
) -> str:
    """Why a label is doubted, for people; probabilities and neighbour counts are of the given, then the suggested one.

    >>> label_reason("functional", "defective", (0.03, 0.9), (1, 8), 10)
    '8 of its 10 nearest images are labeled defective, 1 functional; the model gives defective 90 %, functional 3 %'
    """
    model = f"the model gives {suggested} {_percent(probabilities[1])}, {given} {_percent(probabilities[0])}"
    if not asked:
        return model
    if neighbours[1] >= neighbours[0]:
        near = f"{neighbours[1]} of its {asked} nearest images are labeled {suggested}, {neighbours[0]} {given}"
    else:
        near = f"though {neighbours[0]} of its {asked} nearest images are labeled {given}, {neighbours[1]} {suggested}"
        return f"{model}, {near}"
    return f"{near}; {model}"


def _percent(fraction: float) -> str:
    if fraction < 0.005:
        return "under 1 %"
    return "over 99 %" if fraction > 0.995 else f"{100 * fraction:.0f} %"


class _Alike:
    """Which other samples are most alike; in large sets from the nearest ones and some of each class."""

    def __init__(self, features: Features, columns: Integers) -> None:
        self._unit = unit_directions(features)
        self._nearest: Integers | None = None
        if len(features) > neighbours.EXACT:
            self._nearest = nearest_neighbours(features, NEIGHBOURS)[0]
            drawn = np.random.default_rng(0).permutation(len(columns))
            self._some = {int(c): drawn[columns[drawn] == c][:CONSIDERED] for c in np.unique(columns)}

    def to(self, row: int, classes: Sequence[int]) -> Integers:
        """Rows of other samples, most alike first, among them the most alike of these classes."""
        if self._nearest is None:
            rows = np.arange(len(self._unit))
        else:
            rows = np.unique(
                np.concatenate([self._nearest[row], *(self._some.get(c, []) for c in classes)]).astype(int)
            )
        rows = rows[rows != row]
        return np.asarray(rows[np.argsort(-(self._likeness(rows, row)), kind="stable")])

    def _likeness(self, rows: Integers, row: int) -> Features:
        if self._nearest is None:  # without a copy of all of them
            return np.delete(self._unit @ self._unit[row], row)
        return np.asarray(self._unit[rows] @ self._unit[row])


# --- duplicates


def find_duplicate_issues(
    samples: Sequence[Sample],
    labels: Sequence[str],
    predictions: Predictions,
    classes: Classes,
    features: Features,
    *,
    pairs: Sequence[Pair] | None = None,
    judged: Judged | None = None,
) -> list[Issue]:
    """Near-duplicates, and those of them that bear different labels (``label_conflict``); worst first.

    ``pairs`` are rows with their cosine, by default those of ``near_duplicate_pairs``. Score of a ``near_duplicate``:
    how much it differs from its twin, 0 to 1; of a conflict: the quality of the label. Of a crowd the first
    ``TWINS_SHOWN`` are ``related``, and as many with the sample's own and with the suggested label.
    """
    ids = [s.id for s in samples]
    _check(ids, labels, predictions, features)
    pairs = near_duplicate_pairs(features) if pairs is None else pairs
    likeness: dict[int, float] = {}
    for left, right, cosine in pairs:
        for row in (left, right):
            likeness[row] = max(likeness.get(row, 0.0), cosine)
    groups = join_groups(len(ids), [pair[:2] for pair in pairs])
    members: dict[int, list[int]] = {}
    for row in sorted(likeness):
        members.setdefault(int(groups[row]), []).append(row)
    quality = (judged or judge_labels(predictions.probabilities, _columns(labels, predictions))).quality
    issues = []
    for rows in members.values():
        of_label: dict[str, list[int]] = {}
        for row in rows:
            of_label.setdefault(labels[row], []).append(row)
        for row in rows:
            if len(of_label) > 1:
                issues.append(
                    _conflict(samples, labels[row], of_label, rows, predictions, classes, row, float(quality[row]))
                )
            else:
                issues.append(_near_duplicate(samples, row, rows, likeness[row]))
    return sorted(issues, key=lambda i: (i.kind != "label_conflict", i.score, i.sample_id))


def _near_duplicate(samples: Sequence[Sample], row: int, group: Sequence[int], likeness: float) -> Issue:
    twins = _first_twins(row, group)
    others = f" and {len(group) - 2} more" if len(group) > 2 else ""
    return Issue(
        samples[row].id,
        "near_duplicate",
        float(np.clip(1 - likeness, 0, 1)),
        f"looks the same as {samples[twins[0]].path}{others}",
        related=tuple(samples[t].id for t in twins),
    )


def _first_twins(row: int, group: Sequence[int]) -> list[int]:
    return [r for r in group[: TWINS_SHOWN + 1] if r != row][:TWINS_SHOWN]


def _conflict(
    samples: Sequence[Sample],
    given: str,
    of_label: Mapping[str, Sequence[int]],
    group: Sequence[int],
    predictions: Predictions,
    classes: Classes,
    row: int,
    quality: float,
) -> Issue:
    """Suggests the label of a twin where the model prefers it to the sample's own."""
    counts = Counter({label: len(rows) for label, rows in of_label.items() if label != given})
    said = ", ".join(f"{classes.name(label)}" for label, _ in counts.most_common())
    other = min(of_label[label][0] for label in counts)
    own = predictions.probabilities[row]
    best = max([given, *counts], key=lambda label: own[predictions.class_ids.index(label)])
    twins = {t for rows in (group, of_label[given], of_label[best]) for t in _first_twins(row, rows)}
    return Issue(
        samples[row].id,
        "label_conflict",
        quality,
        f"the same picture is labeled {classes.name(given)} here and {said} elsewhere, as in {samples[other].path}",
        given=given,
        suggested=best if best != given else None,
        related=tuple(samples[t].id for t in sorted(twins)),
    )


def _brought_conflict(
    sample_id: str, label: str, brought: Sequence[str], predictions: Predictions, classes: Classes, row: int,
    quality: float,
) -> Issue:  # fmt: skip
    """One picture that came with several labels; suggests another of them where the model prefers it."""
    own = predictions.probabilities[row]
    best = max([label, *brought], key=lambda class_id: own[predictions.class_ids.index(class_id)])
    others = ", ".join(classes.name(class_id) for class_id in brought if class_id != label)
    reason = f"the same picture came as {others} too" if label in brought else f"the same picture came as {others}"
    return Issue(sample_id, "label_conflict", quality, reason, given=label, suggested=best if best != label else None)


# --- leaks


def find_leaks(samples: Sequence[Sample], pairs: Sequence[Pair]) -> list[Issue]:
    """Holdout images that look the same as one of train (kind ``leak``), most alike first.

    ``pairs`` are rows of ``samples`` with their cosine, as of ``near_duplicate_pairs``. What the model has all but seen
    is told correctly too easily, so figures on the holdout are better than they would be on new images.
    """
    twins: dict[int, list[tuple[float, int]]] = {}
    for left, right, cosine in pairs:
        for held, other in ((left, right), (right, left)):
            if (samples[held].split, samples[other].split) == ("holdout", "train"):
                twins.setdefault(held, []).append((-cosine, other))
    issues = [
        Issue(
            samples[row].id,
            "leak",
            float(np.clip(1 + min(found)[0], 0, 1)),
            f"holdout image, looks the same as {samples[min(found)[1]].path} of train",
            related=tuple(samples[other].id for _, other in sorted(found)),
        )
        for row, found in twins.items()
    ]
    return sorted(issues, key=lambda i: (i.score, i.sample_id))


# --- outliers


def find_outliers(sample_ids: Sequence[str], features: Features) -> list[Issue]:
    """Images unlike all others, worst first: cleanlab's score from the distance to the ten nearest, and its fence.

    ``features`` has shape (samples, dimensions). Scores are in [0, 1], 0 for the oddest. None in fewer than 30 images.
    """
    if len(sample_ids) < _LEAST_FOR_OUTLIERS:
        return []
    from cleanlab.outlier import OutOfDistribution  # cleanlab takes a second to import

    search = _Search(*nearest_neighbours(features, NEIGHBOURS))
    scores = np.asarray(OutOfDistribution(params={"knn": search}).score(features=features))
    rows = sorted(np.flatnonzero(far_out(scores)).tolist(), key=lambda row: (scores[row], sample_ids[row]))
    return [
        Issue(sample_ids[row], "outlier", float(np.clip(scores[row], 0, 1)), "unlike every other image of the set")
        for row in rows
    ]


class _Search:
    """Our neighbours as cleanlab takes them from a search that is not scikit-learn's."""

    metric = "cosine"

    def __init__(self, rows: Integers, cosines: Floats) -> None:
        self.n_neighbors = rows.shape[1]
        self._answer = np.clip(1 - cosines, 0, 2), rows

    def kneighbors(self, _features: Features | None = None) -> tuple[Floats, Integers]:
        """Distances and rows of the neighbours of every sample, nearest first."""
        return self._answer


def far_out(scores: Floats) -> Mask:
    """Which of cleanlab's outlier scores, shape (samples,), lie beyond its default fence.

    The scores are exp(-distance / median distance), so the fence is set on minus their logarithm.
    """
    distances = -np.log(np.maximum(scores, 1e-300))
    low, high = np.quantile(distances, [0.25, 0.75])
    beyond: Mask = distances > high + _OUTLIER_FENCE * (high - low) + 1e-9
    return beyond


# --- classes


def find_rare_classes(sample_ids: Sequence[str], labels: Sequence[str], classes: Classes) -> list[Issue]:
    """Samples of the rarest class, where it has less than a tenth of an equal share (kind ``class_imbalance``).

    The rule and the score, the class's share of all labels, are those of cleanlab's Datalab, for classes that have a
    label at all. Datalab's underperforming groups are not asked for: weak slices say the same in words, and confirm it.
    """
    counts = Counter(labels)
    if len(counts) < 2:
        return []
    rarest = min(counts, key=lambda label: (counts[label], label))
    share = counts[rarest] / len(labels)
    if share > RARE / len(counts):
        return []
    reason = f"{counts[rarest]:,} of {len(labels):,} labels are {classes.name(rarest)}; more images of it are needed"
    return [
        Issue(sample, "class_imbalance", share, reason)
        for sample, label in zip(sample_ids, labels, strict=True)
        if label == rarest
    ]


# --- doors


def _check(sample_ids: Sequence[str], labels: Sequence[str], predictions: Predictions, features: Features) -> None:
    if tuple(sample_ids) != predictions.sample_ids:
        raise RecordError("predictions must hold the same samples in the same order; use Predictions.take")
    if len(labels) != len(sample_ids) or len(features) != len(sample_ids):
        raise RecordError(
            f"labels and features must have one row a sample ({len(sample_ids)}), got {len(labels)} and {len(features)}"
        )


def _columns(labels: Sequence[str], predictions: Predictions) -> Integers:
    where: Mapping[str, int] = {class_id: column for column, class_id in enumerate(predictions.class_ids)}
    unknown = sorted(set(labels) - set(where))
    if unknown:
        raise RecordError(f"class '{unknown[0]}' is not in these predictions; there are {list(where)}")
    return np.array([where[label] for label in labels], dtype=np.int64)

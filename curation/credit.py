"""What each action is worth: heads on cached features, trained with one action at a time, compared on the same rows.

A head is ridge regression on the indicators of classes, in closed form, so that a dozen of them cost less than a
second; accuracies are lower than those of a fine-tuned network, but every action is judged by the same yardstick.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from curation.errors import RecordError
from curation.gain import paired_interval
from curation.records import Estimate
from curation.words import counted

Features = npt.NDArray[np.float32]
Columns = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

#: Penalty of the head, on features of length 10 (``curation.regression.scale``).
PENALTY = 100.0
ALL = "all"


@dataclass(frozen=True, eq=False)
class TrainingSet:
    """Rows to train on: ``features`` (rows, dimensions), ``labels`` (rows,), columns of classes.

    ``counts`` (rows,) are what each row counts, 1 by default. ``measured`` (measured rows, dimensions) are features of
    the rows that it is measured on, where they are of another network than those of other sets.
    """

    features: Features
    labels: Columns
    counts: Floats | None = None
    measured: Features | None = None

    def __post_init__(self) -> None:
        if self.features.ndim != 2 or self.labels.shape != self.features.shape[:1]:
            raise RecordError(
                "a training set needs features of shape (rows, dimensions) and labels (rows,), "
                f"got {self.features.shape} and {self.labels.shape}"
            )


@dataclass(frozen=True)
class Credit:
    """What one action did to accuracy by itself: a fraction with its 95 % interval, on the same rows for all actions.

    ``shown`` is true where the interval, widened for the number of actions, leaves zero out; ``per_minute`` is the
    gain over the minutes that people spent on it, ``None`` where that is not known or nobody had to. Where it hangs on
    rows that a head takes for a class that no row is labeled with (``unjudged``), it is not shown.
    """

    action: str
    gain: Estimate
    shown: bool
    per_minute: float | None = None
    unjudged: int = 0


def fit_head(train: TrainingSet, n_classes: int, penalty: float = PENALTY) -> Floats:
    """Weights (dimensions + 1, classes) of a ridge head; the last row is the intercept.

    >>> head = fit_head(TrainingSet(np.array([[-1.0], [1.0]], dtype=np.float32), np.array([0, 1])), 2, penalty=1.0)
    >>> predict_head(head, np.array([[-3.0], [2.0]], dtype=np.float32)).tolist()
    [0, 1]
    """
    inputs = _with_one(train.features)
    targets = np.eye(n_classes)[train.labels] - 1 / n_classes
    if train.counts is not None:  # least squares, weighted: the same on rows and targets times the root
        roots = np.sqrt(train.counts)[:, None]
        inputs, targets = (inputs * roots).astype(np.float32), targets * roots
    gram = (inputs.T @ inputs).astype(np.float64) + penalty * np.eye(inputs.shape[1])
    return np.asarray(np.linalg.solve(gram, inputs.T @ targets))


def predict_head(head: Floats, features: Features) -> Columns:
    """The predicted column of each row, shape (rows,)."""
    return np.asarray((_with_one(features) @ head).argmax(axis=1), dtype=np.int64)


def credit_actions(
    before: TrainingSet,
    actions: Mapping[str, TrainingSet],
    measured: TrainingSet,
    n_classes: int,
    *,
    minutes: Mapping[str, float] | None = None,
) -> tuple[Credit, ...]:
    """What each of ``actions`` (by name, the set as that action alone makes it) gains over ``before``.

    All heads are compared on ``measured``, rows that none was trained on. As several actions are looked at, whether a
    gain is shown is decided by Holm's step-down procedure, on intervals of level 1 - 0.05 / actions that are left
    (Holm, Scandinavian Journal of Statistics 1979). ``ALL`` is a question of its own, judged by its 95 % interval.
    """
    was = predict_head(fit_head(before, n_classes), measured.features)
    base, known = was == measured.labels, np.isin(was, measured.labels)
    changes: dict[str, tuple[int, int]] = {}
    judged: dict[str, tuple[int, int]] = {}
    for name, train in actions.items():
        seen = measured.features if train.measured is None else train.measured
        now = predict_head(fit_head(train, n_classes), seen)
        won, gone = (now == measured.labels) & ~base, base & (now != measured.labels)
        changes[name] = int(won.sum()), int(gone.sum())
        judged[name] = int((won & known).sum()), int((gone & np.isin(now, measured.labels)).sum())
    count = len(measured.labels)
    shown = _all_shown(changes, count) & _all_shown(judged, count)
    found = []
    for name, (gained, lost) in changes.items():
        value, spent = (gained - lost) / count, (minutes or {}).get(name, 0.0)
        gain = Estimate(value, paired_interval(gained, lost, count))
        blind = gained + lost - sum(judged[name])
        found.append(Credit(name, gain, name in shown, value / spent if spent else None, blind))
    return tuple(found)


def _all_shown(changes: Mapping[str, tuple[int, int]], count: int) -> set[str]:
    single = {name: change for name, change in changes.items() if name != ALL}
    return _shown(single, count) | _shown({ALL: changes[ALL]} if ALL in changes else {}, count)


def _shown(changes: Mapping[str, tuple[int, int]], count: int) -> set[str]:
    """Those whose rows gained and lost, of ``count``, leave zero out, at a level that rises with each one found."""
    shown: set[str] = set()
    while left := {name: change for name, change in changes.items() if name not in shown}:
        intervals = {name: paired_interval(*change, count, level=1 - 0.05 / len(left)) for name, change in left.items()}
        clear = {name for name, (low, high) in intervals.items() if not low <= 0 <= high}
        if not clear:
            break
        shown |= clear
    return shown


def action_sets(
    features: Features,
    before: Columns,
    after: Columns,
    copies: Features | None = None,
    copied: Columns | None = None,
    counts: Floats | None = None,
    *,
    brought: Mask | None = None,
    taught: tuple[Features, Features] | None = None,
) -> tuple[TrainingSet, dict[str, TrainingSet]]:
    """The set as it was, and as each action by itself makes it, by the action's name; only actions that were taken.

    ``features`` (rows, dimensions) are of all images that either set holds; ``before`` and ``after`` (rows,) their
    columns, -1 where an image is not trained on. ``copies`` (copies, dimensions) are features of augmented copies of
    the rows ``copied``, each of which counts ``counts`` (copies,), 1 by default. ``brought`` (rows,) are those whose
    labels came by import, not by people who were asked. ``taught`` are features of the rows and of those that are
    measured by a network that augmentation taught, which then takes the place of copies.

    >>> both = action_sets(np.zeros((3, 1), dtype=np.float32), np.array([0, 1, -1]), np.array([1, -1, 0]))[1]
    >>> {name: train.labels.tolist() for name, train in both.items()}
    {'relabeling': [1, 1], 'exclusions': [0], 'new labels': [0, 1, 0], 'all': [1, 0]}
    """
    was, now = before >= 0, after >= 0
    changed, gone, new = was & now & (before != after), was & ~now, now & ~was
    actions: dict[str, TrainingSet] = {}
    if changed.any():
        actions["relabeling"] = TrainingSet(features[was], np.where(changed, after, before)[was])
    if gone.any():
        actions["exclusions"] = TrainingSet(features[was & ~gone], before[was & ~gone])
    imported = new & (False if brought is None else brought)
    for name, came in (("new labels", new & ~imported), ("imported labels", imported)):
        if came.any():
            actions[name] = TrainingSet(features[was | came], np.where(came, after, before)[was | came])
    everything = TrainingSet(features[now], after[now])
    if taught is not None:
        actions["augmentation"] = TrainingSet(taught[0][was], before[was], measured=taught[1])
        everything = TrainingSet(taught[0][now], after[now], measured=taught[1])
    elif copies is not None and copied is not None and len(copied):
        counts = np.ones(len(copied)) if counts is None else counts
        kept = was[copied]
        actions["augmentation"] = _joined(
            TrainingSet(features[was], before[was]), TrainingSet(copies[kept], before[copied[kept]], counts[kept])
        )
        kept = now[copied]
        everything = _joined(everything, TrainingSet(copies[kept], after[copied[kept]], counts[kept]))
    if len(actions) > 1:
        actions[ALL] = everything
    return TrainingSet(features[was], before[was]), actions


def _joined(train: TrainingSet, more: TrainingSet) -> TrainingSet:
    counts = [np.ones(len(part.labels)) if part.counts is None else part.counts for part in (train, more)]
    return TrainingSet(
        np.concatenate([train.features, more.features]),
        np.concatenate([train.labels, more.labels]),
        np.concatenate(counts),
    )


def causes(credits: Sequence[Credit]) -> tuple[str, ...]:
    """The actions that are shown to have helped by themselves, best first."""
    helped = [c for c in credits if c.shown and c.gain.value > 0 and c.action != ALL]
    return tuple(c.action for c in sorted(helped, key=lambda c: -c.gain.value))


def credit_words(credits: Sequence[Credit]) -> str:
    """What caused the gain, in one or two sentences.

    >>> credit_words((Credit("relabeling", Estimate(0.03, (0.01, 0.05)), True, 0.001),))
    'Relabeling helped: +3.0 points of accuracy (+1.0 to +5.0), 0.10 a minute of work.'
    >>> credit_words((Credit("augmentation", Estimate(0.0, (-0.01, 0.01)), False),))
    'No single action is shown to have helped: augmentation +0.0 (-1.0 to +1.0).'
    """
    named = causes(credits)
    if not named:
        said = ", ".join(f"{c.action} {_points(c.gain)}{_blind(c)}" for c in credits if c.action != ALL)
        return f"No single action is shown to have helped: {said}." if said else "Nothing was done that could help."
    by_name = {c.action: c for c in credits}
    parts = []
    for name in named:
        credit = by_name[name]
        value, interval = _points(credit.gain).split(" ", 1)
        pace = f", {100 * credit.per_minute:.2f} a minute of work" if credit.per_minute is not None else ""
        parts.append(f"{name} helped: {value} points of accuracy {interval}{pace}")
    said = "; ".join(parts)
    return f"{said[:1].upper()}{said[1:]}."


def _blind(credit: Credit) -> str:
    images = counted(credit.unjudged, "image", "images")
    return f", {images} of it by a class that no holdout image has" if credit.unjudged else ""


def _points(gain: Estimate) -> str:
    low, high = gain.ci or (gain.value, gain.value)
    return f"{100 * gain.value:+z.1f} ({100 * low:+z.1f} to {100 * high:+z.1f})"


def _with_one(features: Features) -> Features:
    return np.concatenate([features, np.ones((len(features), 1), dtype=np.float32)], axis=1)

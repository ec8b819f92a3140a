"""Which slice gets a recipe, and which images get copies; and a cheap trial of whether it helps."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from augment.recipes import Recipe, recipe_for
from augment.transforms import build_transform
from curation.config import SliceSettings
from curation.errors import RecordError
from curation.records import Augmentation, Estimate, Slice
from curation.slices import members, weakness_of

if TYPE_CHECKING:
    import pandas as pd

#: Augmented images cost a pass through the whole network each; no more than this many are made for an iteration.
MOST_COPIES = 400
#: Inverse strength of the trial's penalty on standardised features, about what fits a thousand features.
HEAD_STRENGTH = 0.003
#: How many other images are brought into a slice's condition for each that it has.
COPIED_PER_MEMBER = 2


def plan(
    weak: Slice,
    properties: pd.DataFrame,
    sample_ids: Sequence[str],
    labels: Sequence[str],
    settings: SliceSettings,
    seed: int,
    recipes: Sequence[Recipe] = (),
) -> tuple[Recipe, Augmentation]:
    """The recipe for a slice, and which images it makes copies of.

    ``properties`` (measured properties, and metadata where slices speak of it) has a row for each of ``sample_ids``,
    whose class ids are ``labels``. Where the recipe produces a condition (dark, blurred, ...), images that are like
    the slice but for this condition are copied into it, twice as many as the slice has, in its mix of classes; the
    slice's own are left out, since the recipe would bring the condition on them twice. Against rarity the slice's own
    images are copied. At most 400 copies in all, drawn by ``seed``. Of ``recipes`` the first against the same weakness
    takes the place of ours. Raises RecordError where lengths differ.
    """
    if not len(properties) == len(sample_ids) == len(labels):
        raise RecordError(
            f"a plan needs one row of properties and one label a sample, got {len(properties)} and {len(labels)} "
            f"for {len(sample_ids)} samples"
        )
    own = set(weak.sample_ids)
    inside = np.array([sample_id in own for sample_id in sample_ids], dtype=np.bool_)
    weakness = weak.weakness or "rare"
    ours = recipe_for(weakness, properties[inside], properties[~inside])
    recipe = next((r for r in recipes if r.weakness == weakness), ours)
    rows = _rows_to_copy(weak, weakness, properties, inside, labels, seed)
    most = MOST_COPIES // settings.copies if settings.copies else 0
    copied = tuple(sample_ids[row] for row in rows[:most])
    return recipe, Augmentation(recipe.name, copied, settings.copies, build_transform(recipe))


def _rows_to_copy(
    weak: Slice,
    weakness: str,
    properties: pd.DataFrame,
    inside: npt.NDArray[np.bool_],
    labels: Sequence[str],
    seed: int,
) -> list[int]:
    """Rows in random order, so that the first of them are a fair draw."""
    rng = random.Random(f"{seed}:{weak.name}")
    own = [int(row) for row in np.flatnonzero(inside)]
    like = np.flatnonzero(_like_but_for_it(weak, weakness, properties, labels) & ~inside)
    mix = Counter(labels[row] for row in own)
    drawn: list[int] = []
    for label, count in sorted(mix.items()):
        others = [int(row) for row in like if labels[row] == label]
        drawn += rng.sample(others, min(len(others), COPIED_PER_MEMBER * count))
    chosen = own if weakness == "rare" or not drawn else drawn
    rng.shuffle(chosen)
    return chosen


def _like_but_for_it(
    weak: Slice, weakness: str, properties: pd.DataFrame, labels: Sequence[str]
) -> npt.NDArray[np.bool_]:
    """Rows that fulfil the slice's conditions, other than those that the recipe itself brings about."""
    others = tuple(c for c in weak.conditions if weakness_of([c]) != weakness)
    known = all(c.field == "class" or c.field in properties.columns for c in others)
    return members(replace(weak, conditions=others if known else ()), properties, labels)


@dataclass(frozen=True)
class Trial:
    """What a recipe did in cross-validation: accuracy gained on the slice and elsewhere; and by oversampling."""

    kept: bool
    gain: Estimate
    rest: Estimate
    baseline: Estimate
    words: str


def trial(
    features: npt.NDArray[np.float32],
    augmented: npt.NDArray[np.float32],
    sources: npt.NDArray[np.int64],
    labels: npt.NDArray[np.int64],
    inside: npt.NDArray[np.bool_],
    folds: npt.NDArray[np.int64],
    *,
    margin: float = 0.01,
    seed: int = 0,
) -> Trial:
    """Try augmented features in cross-validation of a logistic head, against the plain head and against oversampling.

    ``features`` has shape (samples, d); ``augmented``, (copies, d), was made from the rows ``sources``, (copies,);
    ``labels``, ``inside`` (member of the slice) and ``folds`` have shape (samples,). A head never sees a copy of what
    it is judged on. Oversampling repeats as many images of the slice as there are copies, which is what a recipe has to
    beat (reweighting gains most of what is to be gained on many benchmarks; Sagawa et al. 2020, Idrissi et al. 2022).
    Kept only where the slice gains with an interval that excludes zero, and more than by oversampling, and the rest
    loses no more than ``margin``. Raises RecordError where shapes differ or the slice is empty.
    """
    _check_trial(features, augmented, sources, labels, inside, folds)
    own = np.random.default_rng(seed).permutation(np.flatnonzero(inside))
    repeated = np.resize(own, len(sources))
    plain = _right(features, labels, folds, features[:0], sources[:0])
    with_recipe = _right(features, labels, folds, augmented, sources)
    oversampled = _right(features, labels, folds, features[repeated], repeated)
    gain = paired_gain(plain[inside], with_recipe[inside], seed=seed)
    rest = paired_gain(plain[~inside], with_recipe[~inside], seed=seed)
    baseline = paired_gain(plain[inside], oversampled[inside], seed=seed)
    return judge(gain, rest, baseline, margin)


def _check_trial(
    features: npt.NDArray[np.float32],
    augmented: npt.NDArray[np.float32],
    sources: npt.NDArray[np.int64],
    labels: npt.NDArray[np.int64],
    inside: npt.NDArray[np.bool_],
    folds: npt.NDArray[np.int64],
) -> None:
    count = len(features)
    for name, rows in (("labels", labels), ("inside", inside), ("folds", folds)):
        if rows.shape != (count,):
            raise RecordError(f"{name} must have shape ({count},) (samples,), got {rows.shape}")
    if augmented.shape != (len(sources), features.shape[1]):
        raise RecordError(
            f"augmented must have shape ({len(sources)}, {features.shape[1]}) (copies, d), got {augmented.shape}"
        )
    if not inside.any():
        raise RecordError("a trial needs a slice with at least one sample, but 'inside' is false everywhere")


def judge(gain: Estimate, rest: Estimate, baseline: Estimate, margin: float) -> Trial:
    """Whether a recipe is kept: it harms nothing else, helps for sure, and more than oversampling; in this order."""
    helps = gain.ci is not None and gain.ci[0] > 0
    harms = rest.value < -margin
    if harms:
        verdict = "Not kept, it harms the other images"
    elif not helps:
        verdict = "Not kept, no gain on the slice shown"
    elif gain.value <= baseline.value:
        verdict = "Not kept, showing the slice's images more often does as much"
    else:
        verdict = "Kept"
    figures = (
        f"{_points(gain)} on the slice, {_points(rest)} elsewhere; showing the slice's images more often: "
        f"{_points(baseline)}."
    )
    return Trial(verdict == "Kept", gain, rest, baseline, f"{verdict}: accuracy {figures}")


def _points(estimate: Estimate) -> str:
    """A gain in points of percent with its interval.

    >>> _points(Estimate(0.031, (-0.004, 0.066)))
    '+3.1 points (-0.4 to +6.6)'
    """
    words = f"{100 * estimate.value:+.1f} points"
    return words if estimate.ci is None else f"{words} ({100 * estimate.ci[0]:+.1f} to {100 * estimate.ci[1]:+.1f})"


def _right(
    features: npt.NDArray[np.float32],
    labels: npt.NDArray[np.int64],
    folds: npt.NDArray[np.int64],
    extra: npt.NDArray[np.float32],
    sources: npt.NDArray[np.int64],
) -> npt.NDArray[np.bool_]:
    """Which samples a head gets right that has seen neither them nor copies of them, (samples,)."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    right = np.zeros(len(labels), dtype=np.bool_)
    for fold in np.unique(folds):
        held = folds == fold
        seen = ~held[sources]
        inputs = np.concatenate([features[~held], extra[seen]])
        targets = np.concatenate([labels[~held], labels[sources[seen]]])
        head = make_pipeline(StandardScaler(), LogisticRegression(C=HEAD_STRENGTH, max_iter=300)).fit(inputs, targets)
        right[held] = head.predict(features[held]) == labels[held]
    return right


def paired_gain(
    before: npt.NDArray[np.bool_], after: npt.NDArray[np.bool_], *, resamples: int = 2000, seed: int = 0
) -> Estimate:
    """Accuracy gained on the same rows, with a paired bootstrap interval (percentiles); no interval without rows.

    ``before`` and ``after``, shape (rows,), say which rows are right.

    >>> paired_gain(np.array([True, False]), np.array([True, True])).value
    0.5
    """
    if not len(before):
        return Estimate(0.0, None)
    change = after.astype(np.int64) - before.astype(np.int64)
    shares = np.array([(change == step).mean() for step in (1, -1, 0)])
    draws = np.random.default_rng(seed).multinomial(len(change), shares, size=resamples)
    low, high = np.percentile((draws[:, 0] - draws[:, 1]) / len(change), [2.5, 97.5])
    return Estimate(float(change.mean()), (float(low), float(high)))

"""Which slice gets a recipe, and which images get copies; and a cheap trial of whether it helps."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from augment.recipes import USUAL_BLURS, Recipe, recipe_for
from augment.transforms import build_transform
from curation.config import SliceSettings
from curation.errors import RecordError
from curation.properties import PROPERTIES
from curation.records import Augmentation, Estimate, Slice
from curation.slice_words import weakness_of
from curation.slices import members

if TYPE_CHECKING:
    import pandas as pd

#: Augmented images cost a pass through the whole network each; no more than this many are made for an iteration.
MOST_COPIES = 400
#: Inverse strength of the trial's penalty on standardised features, about what fits a thousand features.
HEAD_STRENGTH = 0.003
#: The trial's head sees this many main directions of the features; more cost time and change little.
MOST_DIRECTIONS = 512
#: What is said where nothing that can be done with the images at hand helps.
COLLECT = "Augmentation does not help here; collect more images of this kind."
#: Measured properties that a recipe against one of them changes as well, unlike an image's size and compression.
LOOKED = tuple(name for name in PROPERTIES if name not in ("width", "height", "aspect", "jpeg_quality"))
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
    blurs: Sequence[tuple[float, float]] = USUAL_BLURS,
) -> tuple[Recipe, Augmentation]:
    """The recipe for a slice, and which images it makes copies of.

    ``properties`` (measured properties, and metadata where slices speak of it) has a row for each of ``sample_ids``,
    whose class ids are ``labels``. Where the recipe produces a condition (dark, blurred, ...), images that are like
    the slice but for how they look (of its classes, metadata and size) are copied into it, twice as many as the slice
    has, in its mix of classes; the slice's own are left out, since the recipe would bring the condition on them twice.
    Against rarity the slice's own images are copied. At most 400 copies in all, drawn by ``seed``. Of ``recipes`` the
    first against the same weakness takes the place of ours. ``blurs`` are those of ``recipe_for``. Raises RecordError
    where lengths differ.
    """
    if not len(properties) == len(sample_ids) == len(labels):
        raise RecordError(
            f"a plan needs one row of properties and one label a sample, got {len(properties)} and {len(labels)} "
            f"for {len(sample_ids)} samples"
        )
    own = set(weak.sample_ids)
    inside = np.array([sample_id in own for sample_id in sample_ids], dtype=np.bool_)
    weakness = weak.weakness or "rare"
    ours = recipe_for(weakness, properties[inside], properties[~inside], blurs)
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
    """Rows that fulfil the slice's conditions, other than those that the recipe itself brings about.

    What makes an image dark or blurred changes its contrast, edges, noise and colours too, so conditions on how an
    image looks follow from the first; images that fulfilled them by themselves would be few and of another kind.
    """
    others = tuple(c for c in weak.conditions if weakness_of([c]) != weakness and c.field not in LOOKED)
    known = all(c.field == "class" or c.field in properties.columns for c in others)
    return members(replace(weak, conditions=others if known else ()), properties, labels)


def unchanged(image: npt.NDArray[np.uint8], seed: int) -> npt.NDArray[np.uint8]:
    """The image as it is."""
    return image


def again(sample_ids: Sequence[str], factor: int) -> Augmentation:
    """The same images ``factor`` times in all, 400 copies at most; against a slice that is merely rare."""
    copies = max(1, min(factor - 1, MOST_COPIES // max(len(sample_ids), 1)))
    return Augmentation("oversampling", tuple(sample_ids[:MOST_COPIES]), copies, unchanged)


Repair = Literal["recipe", "oversampling", "collect"]


@dataclass(frozen=True)
class Trial:
    """What a recipe did in cross-validation: accuracy gained on the slice and elsewhere; and by its baselines.

    ``baseline`` is by showing the slice's images as often as there are copies, ``balanced`` by retraining the last
    layer with slice and rest weighing the same (DFR). ``repair`` is what to do: the recipe, show the slice's images
    more often (``factor`` times), or ``collect`` more of them.
    """

    kept: bool
    gain: Estimate
    rest: Estimate
    baseline: Estimate
    words: str
    balanced: Estimate | None = None
    repair: Repair = "collect"
    factor: int = 1


@dataclass(frozen=True)
class _Tried:
    """One way of training in cross-validation: which samples are right, (samples,), and what changed where."""

    right: npt.NDArray[np.bool_]
    gain: Estimate
    rest: Estimate
    harmed: str


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
    others: Mapping[str, npt.NDArray[np.bool_]] | None = None,
) -> Trial:
    """Try augmented features in cross-validation of a logistic head, against the plain head and two baselines.

    ``features`` has shape (samples, d); ``augmented``, (copies, d), was made from the rows ``sources``, (copies,);
    ``labels``, ``inside`` (member of the slice) and ``folds`` have shape (samples,); ``others`` are the classes and
    slices that must not lose, by name, each (samples,). A head never sees a copy of what it is judged on. The baselines
    repeat as many images of the slice as there are copies, and retrain the last layer with slice and rest weighing the
    same (Kirichenko et al. 2023, "DFR"), which gains most of what is to be gained on many benchmarks (Sagawa et al.
    2020, Idrissi et al. 2022). A recipe is kept only where the slice gains with an interval that excludes zero, and the
    rest loses no more than ``margin``, none of ``others`` more than that for sure, and more is gained than by the
    better baseline, for sure where that one helps too. Raises RecordError where shapes differ or the slice is empty.
    """
    _check_trial(features, augmented, sources, labels, inside, folds)
    own = np.random.default_rng(seed).permutation(np.flatnonzero(inside))
    repeated = np.resize(own, len(sources))
    inputs, extra = _reduced(features, augmented)
    plain = _right(inputs, labels, folds, inputs[:0], sources[:0])
    even = np.where(inside, max((~inside).sum(), 1) / inside.sum(), 1.0)

    def tried(made: npt.NDArray[np.float32], rows: npt.NDArray[np.int64], weights: Any = None) -> _Tried:
        right = _right(inputs, labels, folds, made, rows, weights)
        gain = paired_gain(plain[inside], right[inside], seed=seed)
        rest = paired_gain(plain[~inside], right[~inside], seed=seed)
        return _Tried(right, gain, rest, _harmed(plain, right, others or {}, margin))

    with_recipe = tried(extra, sources)
    repeats, balanced = tried(inputs[repeated], repeated), tried(inputs[:0], sources[:0], even)
    best = max((b for b in (repeats, balanced)), key=lambda b: (not _harms(b, margin), b.gain.value))
    beyond = paired_gain(best.right[inside], with_recipe.right[inside], seed=seed)
    judged = judge(with_recipe.gain, with_recipe.rest, best.gain, margin, harmed=with_recipe.harmed, beyond=beyond,
                   baseline_harms=_harms(best, margin))  # fmt: skip
    factor = round(1 + len(repeated) / len(own)) if best is repeats else min(round(float(even.max())), 20)
    return replace(judged, baseline=repeats.gain, balanced=balanced.gain, factor=max(factor, 2))


def _harms(tried: _Tried, margin: float) -> bool:
    return tried.rest.value < -margin or bool(tried.harmed)


def _harmed(
    before: npt.NDArray[np.bool_],
    after: npt.NDArray[np.bool_],
    others: Mapping[str, npt.NDArray[np.bool_]],
    margin: float,
) -> str:
    """The name of the class or slice that loses most, more than ``margin`` and for sure; empty where none does."""
    worst, name = -margin, ""
    for other, mask in others.items():
        change = paired_gain(before[mask], after[mask])
        if change.ci is not None and change.ci[1] < 0 and change.value < worst:
            worst, name = change.value, other
    return name


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


def judge(
    gain: Estimate,
    rest: Estimate,
    baseline: Estimate,
    margin: float,
    *,
    harmed: str = "",
    beyond: Estimate | None = None,
    baseline_harms: bool = False,
) -> Trial:
    """Whether a recipe is kept: it harms nothing else, helps for sure, and more than the baseline; in this order.

    ``harmed`` names a class or slice that loses; ``beyond`` is what the recipe gains over the baseline on the slice,
    which must be sure where the baseline helps for sure; one that harms the rest counts for nothing. Otherwise the
    baseline is proposed, where it helps and harms nothing, or to collect.
    """
    helps = gain.ci is not None and gain.ci[0] > 0
    baseline_helps = baseline.ci is not None and baseline.ci[0] > 0 and not baseline_harms
    surely_beyond = beyond is None or (beyond.ci is not None and beyond.ci[0] > 0)
    if rest.value < -margin:
        verdict = "Not kept, it harms the other images"
    elif harmed:
        verdict = f"Not kept, it harms {harmed}"
    elif not helps:
        verdict = "Not kept, no gain on the slice shown"
    elif not baseline_harms and (gain.value <= baseline.value or (baseline_helps and not surely_beyond)):
        verdict = "Not kept, showing the slice's images more often does as much"
    else:
        verdict = "Kept"
    figures = (
        f"{_points(gain)} on the slice, {_points(rest)} elsewhere; showing the slice's images more often: "
        f"{_points(baseline)}."
    )
    repair: Repair = "recipe" if verdict == "Kept" else "oversampling" if baseline_helps else "collect"
    ending = {"recipe": "", "oversampling": " So these are shown more often.", "collect": f" {COLLECT}"}[repair]
    words = f"{verdict}: accuracy {figures}{ending}"
    return Trial(verdict == "Kept", gain, rest, baseline, words, repair=repair)


def _points(estimate: Estimate) -> str:
    """A gain in points of percent with its interval.

    >>> _points(Estimate(0.031, (-0.004, 0.066)))
    '+3.1 points (-0.4 to +6.6)'
    """
    words = f"{100 * estimate.value:+.1f} points"
    return words if estimate.ci is None else f"{words} ({100 * estimate.ci[0]:+.1f} to {100 * estimate.ci[1]:+.1f})"


def _reduced(
    features: npt.NDArray[np.float32], augmented: npt.NDArray[np.float32]
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Both turned to the main directions of the standardised features, where these are many."""
    from sklearn.decomposition import PCA

    if features.shape[1] <= MOST_DIRECTIONS or len(features) <= MOST_DIRECTIONS:
        return features, augmented
    mean, deviation = features.mean(axis=0), features.std(axis=0) + 1e-6
    turned = PCA(MOST_DIRECTIONS, svd_solver="randomized", random_state=0).fit((features - mean) / deviation)
    both = np.concatenate([features, augmented])
    made = np.asarray(turned.transform((both - mean) / deviation), dtype=np.float32)
    return made[: len(features)], made[len(features) :]


def _right(
    inputs: npt.NDArray[np.float32],
    labels: npt.NDArray[np.int64],
    folds: npt.NDArray[np.int64],
    extra: npt.NDArray[np.float32],
    sources: npt.NDArray[np.int64],
    weights: npt.NDArray[np.float64] | None = None,
) -> npt.NDArray[np.bool_]:
    """Which samples a head gets right that has seen neither them nor copies of them, (samples,)."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    right = np.zeros(len(labels), dtype=np.bool_)
    weights = np.ones(len(labels)) if weights is None else weights * (len(weights) / weights.sum())
    for fold in np.unique(folds):
        held = folds == fold
        seen = ~held[sources]
        together = np.concatenate([inputs[~held], extra[seen]])
        targets = np.concatenate([labels[~held], labels[sources[seen]]])
        weighed = np.concatenate([weights[~held], np.ones(int(seen.sum()))])
        weighed *= (~held).sum() / weighed.sum()  # more rows would loosen the penalty, a gain that copies can't claim
        head = make_pipeline(StandardScaler(), LogisticRegression(C=HEAD_STRENGTH, max_iter=300))
        head.fit(together, targets, logisticregression__sample_weight=weighed)
        right[held] = head.predict(inputs[held]) == labels[held]
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

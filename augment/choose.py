"""Which slice gets a recipe, and which images get copies; and a cheap trial of whether it helps."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from augment.recipes import Recipe, recipe_for
from augment.transforms import build_transform
from curation.config import SliceSettings
from curation.errors import RecordError
from curation.records import Augmentation, Estimate, Slice

if TYPE_CHECKING:
    import pandas as pd

#: Augmented images cost a pass through the whole network each; no more than this many are made for an iteration.
MOST_COPIES = 400


def weakest(slices: Sequence[Slice]) -> Slice | None:
    """The first open slice; they come with the most repairable errors first."""
    return next((s for s in slices if s.status == "open"), None)


def plan(
    weak: Slice,
    properties: pd.DataFrame,
    sample_ids: Sequence[str],
    labels: Sequence[str],
    settings: SliceSettings,
    seed: int,
) -> tuple[Recipe, Augmentation]:
    """The recipe for a slice, and which images it makes copies of.

    ``properties`` has a row for each of ``sample_ids``, whose class ids are ``labels``. Where the recipe produces a
    condition (dark, blurred, ...), other images of the slice's classes are copied into it; against rarity the slice's
    own images are. At most 400 copies, drawn by ``seed``.
    """
    inside = np.isin(np.array(sample_ids), np.array(weak.sample_ids))
    if len(properties) != len(sample_ids):
        raise RecordError(f"properties must have {len(sample_ids)} rows, one a sample, got {len(properties)}")
    recipe = recipe_for(weak.weakness or "rare", properties[inside], properties[~inside])
    classes = {label for label, member in zip(labels, inside, strict=True) if member}
    own = [s for s, member in zip(sample_ids, inside, strict=True) if member]
    others = [s for s, member, label in zip(sample_ids, inside, labels, strict=True) if not member and label in classes]
    rng = random.Random(f"{seed}:{weak.name}")
    room = MOST_COPIES // max(settings.copies, 1)
    candidates = own if recipe.weakness == "rare" or not others else rng.sample(others, min(len(others), 2 * len(own)))
    chosen = candidates if len(candidates) <= room else rng.sample(candidates, room)
    return recipe, Augmentation(recipe.name, tuple(chosen), settings.copies, build_transform(recipe))


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
) -> Trial:
    """Try augmented features in cross-validation of a logistic head, against the plain head and against oversampling.

    ``features`` (samples, d) and ``augmented`` (copies, d), made from rows ``sources``; ``labels``, ``inside`` (the
    slice) and ``folds`` have shape (samples,). Kept only where the slice gains with an interval that excludes zero,
    more than oversampling, and the rest loses no more than ``margin``.
    """
    plain = _right(features, labels, folds, None, None)
    with_recipe = _right(features, labels, folds, augmented, sources)
    repeated = np.flatnonzero(inside)
    oversampled = _right(features, labels, folds, features[repeated], repeated)
    gain = _difference(plain[inside], with_recipe[inside])
    rest = _difference(plain[~inside], with_recipe[~inside])
    baseline = _difference(plain[inside], oversampled[inside])
    kept = bool(gain.ci and gain.ci[0] > 0 and gain.value > baseline.value and rest.value >= -margin)
    words = f"{gain.value:+.1%} on the slice, {rest.value:+.1%} elsewhere; oversampling alone {baseline.value:+.1%}."
    return Trial(kept, gain, rest, baseline, ("Kept: " if kept else "Not kept: ") + words)


def _right(
    features: npt.NDArray[np.float32],
    labels: npt.NDArray[np.int64],
    folds: npt.NDArray[np.int64],
    extra: npt.NDArray[np.float32] | None,
    sources: npt.NDArray[np.int64] | None,
) -> npt.NDArray[np.bool_]:
    """Which samples a head gets right that has seen neither them nor copies of them, (samples,)."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    right = np.zeros(len(labels), dtype=bool)
    for fold in np.unique(folds):
        held = folds == fold
        inputs, targets = features[~held], labels[~held]
        if extra is not None and sources is not None:
            seen = ~held[sources]
            inputs = np.concatenate([inputs, extra[seen]])
            targets = np.concatenate([targets, labels[sources[seen]]])
        head = make_pipeline(StandardScaler(), LogisticRegression(C=0.003, max_iter=200)).fit(inputs, targets)
        right[held] = head.predict(features[held]) == labels[held]
    return right


def _difference(before: npt.NDArray[np.bool_], after: npt.NDArray[np.bool_], resamples: int = 2000) -> Estimate:
    """Accuracy gained on the same rows, with a paired bootstrap interval."""
    if not len(before):
        return Estimate(0.0, None)
    change = after.astype(float) - before.astype(float)
    rows = np.random.default_rng(0).integers(len(change), size=(resamples, len(change)))
    low, high = np.percentile(change[rows].mean(axis=1), [2.5, 97.5])
    return Estimate(float(change.mean()), (float(low), float(high)))

"""Which slice gets a recipe, and which images get copies; and a cheap trial of whether it helps."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

from augment.recipes import Recipe, Softness, recipe_for
from augment.transforms import build_transform
from curation.config import SliceSettings
from curation.copies import copy_weight
from curation.errors import RecordError
from curation.gain import mean_with_interval
from curation.properties import PROPERTIES
from curation.records import Augmentation, Estimate, Slice
from curation.regression import Inputs, choose_regressions
from curation.slice_words import WEAKNESSES, weakness_of
from curation.slices import members

if TYPE_CHECKING:
    import pandas as pd

Features = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

#: Augmented images cost half as much as new ones each; a recipe makes no more than this many of other images. Twice as
#: many as 1,000 bring back a tenth more, four times as many hardly anything, while those lose (docs/log.md).
MOST_COPIES = 2000
#: And no more than this many of the slice's own.
MOST_OF_ITS_OWN = 1000
#: A weakness is measured in a slice whose images differ from others as clearly as this; so many are tried.
CLEARLY, MOST_AIMS = 0.9, 3
#: Weaknesses that no measured property tells from another one: what is soft may be blurred or of low resolution.
LIKEWISE = {"blurred": "low_resolution"}
#: What is tried, before rarity, where nothing else is measured: what has few edges may be soft, or plain by nature. A
#: hint need not be as clear.
HINTS, HINTED = {("busyness", "<"): "blurred"}, 0.8
#: So many other images are brought into a slice's condition for each that it has, though its mix of classes suffers.
LEAST_COPIED = 2
#: Below this p-value a slice has another mix of classes than the images that are like it but for how they look.
MIX_LEVEL = 0.05
#: Slice and rest weigh the same where each of its images counts so many times at most.
MOST_EVEN = 20
#: Where others lose by that, the slice's images count this share of it, and again; less often than so, never. What the
#: rest may lose, as a share of the margin: showing them less often is always there to be taken instead.
LESS_EVEN, LEAST_EVEN, RISKED = 0.6, 4, 0.5
#: What is said where nothing that can be done with the images at hand helps.
COLLECT = "Augmentation does not help here; collect more images of this kind."
#: What is said where the head is to look past what the recipe changes.
LOOKED_PAST = " The model looks past what the recipe changes most."
#: What is said where the network itself learns from the recipe.
TAUGHT = " The network is taught to see such images as it sees others (stability training)."
#: Measured properties that a recipe against one of them changes as well, unlike an image's size and compression.
LOOKED = tuple(name for name in PROPERTIES if name not in ("width", "height", "aspect", "jpeg_quality"))


def plan(
    weak: Slice,
    properties: pd.DataFrame,
    sample_ids: Sequence[str],
    labels: Sequence[str],
    settings: SliceSettings,
    seed: int,
    recipes: Sequence[Recipe] = (),
    softness: Softness = (),
) -> tuple[Recipe, Augmentation]:
    """The recipe for a slice, and which images it makes copies of.

    ``properties`` (measured properties, and metadata where slices speak of it) has a row for each of ``sample_ids``,
    whose class ids are ``labels``. Where the recipe produces a condition (dark, blurred, ...), images that are like
    the slice but for how they look (of its classes, metadata and size) are copied into it: all, where their mix of
    classes is the slice's but for chance, else in its mix. The slice's own are left out, since the recipe would bring
    the condition on them twice. Against rarity the slice's own images are copied. ``MOST_COPIES`` copies at most, of
    its own ``MOST_OF_ITS_OWN``: rather one each of many images than several of few, up to ``settings.copies``; in an
    order drawn by ``seed``, so that the first of them are a fair draw. Of ``recipes`` the first against the same
    weakness takes the place of ours. ``softness`` is that of ``recipe_for``. Raises RecordError where lengths differ.
    """
    if not len(properties) == len(sample_ids) == len(labels):
        raise RecordError(
            f"a plan needs one row of properties and one label a sample, got {len(properties)} and {len(labels)} "
            f"for {len(sample_ids)} samples"
        )
    own = set(weak.sample_ids)
    inside = np.array([sample_id in own for sample_id in sample_ids], dtype=np.bool_)
    weakness = weak.weakness or "rare"
    ours = recipe_for(weakness, properties[inside], properties[~inside], softness)
    recipe = next((r for r in recipes if r.weakness == weakness), ours)
    most = MOST_COPIES if settings.copies else 0
    rows = _rows_to_copy(weak, weakness, properties, inside, labels, seed, most)
    most = min(most, MOST_OF_ITS_OWN) if inside[rows].all() else most
    rows = rows[:most]
    copies = min(settings.copies, max(most // max(len(rows), 1), 1))
    return recipe, Augmentation(recipe.name, tuple(sample_ids[row] for row in rows), copies, build_transform(recipe))


def aims(weak: Slice, properties: pd.DataFrame, sample_ids: Sequence[str]) -> list[str]:
    """What a slice may be repaired against: the weakness that its words name, then measured ones; ``MOST_AIMS``.

    Behind each comes the one that can't be told from it (``LIKEWISE``): a trial tells. Measured is how surely an image
    of the slice is further in a weakness's direction than one of the rest (area under the ROC curve): the surest first,
    from ``CLEARLY`` on; where there is none, what is hinted at (``HINTS``, from ``HINTED`` on) and rarity. Words may
    name what goes with a weakness, as turning an image changes its noise. ``properties`` has a row for each of
    ``sample_ids``.
    """
    own = set(weak.sample_ids)
    inside = np.array([sample_id in own for sample_id in sample_ids], dtype=np.bool_)

    def measured(signs: Mapping[tuple[str, str], str], least: float) -> list[str]:
        surely = {
            (field, op): _further(properties[field].to_numpy(dtype=np.float64, na_value=np.nan), inside, op)
            for field, op in signs
            if field in properties
        }
        return [signs[s] for s in sorted(surely, key=lambda s: surely[s], reverse=True) if surely[s] >= least]

    named = [weak.weakness] if weak.weakness not in ("", "rare") else []
    found = [*named, *measured(WEAKNESSES, CLEARLY)] or [*measured(HINTS, HINTED), "rare"]
    with_likewise = [w for weakness in found for w in (weakness, LIKEWISE.get(weakness, weakness))]
    return list(dict.fromkeys(with_likewise))[:MOST_AIMS]


def _further(values: npt.NDArray[np.float64], inside: Mask, op: str) -> float:
    """The chance that a value inside lies further in a direction than one outside; 0.5 where nothing was measured."""
    from scipy.stats import rankdata

    known = np.isfinite(values)
    own, count = int((inside & known).sum()), int(known.sum())
    if not 0 < own < count:
        return 0.5
    ranks = rankdata(values[known])[inside[known]]
    above = float((ranks.sum() - own * (own + 1) / 2) / (own * (count - own)))
    return above if op == ">=" else 1 - above


def _rows_to_copy(
    weak: Slice,
    weakness: str,
    properties: pd.DataFrame,
    inside: Mask,
    labels: Sequence[str],
    seed: int,
    most: int,
) -> list[int]:
    """About ``most`` rows, or all, in random order, so that the first of them are a fair draw."""
    rng = random.Random(f"{seed}:{weak.name}")
    own = [int(row) for row in np.flatnonzero(inside)]
    like = [int(row) for row in np.flatnonzero(_like_but_for_it(weak, weakness, properties, labels) & ~inside)]
    drawn = like if _mixed_alike(own, like, labels) else _in_the_mix_of(own, like, labels, most, rng)
    chosen = own if weakness == "rare" or not drawn else drawn
    rng.shuffle(chosen)
    return chosen


def _mixed_alike(own: Sequence[int], like: Sequence[int], labels: Sequence[str]) -> bool:
    """Whether both groups of rows have the same mix of classes but for chance (chi-squared test)."""
    from scipy.stats import chi2_contingency

    if not like:
        return False
    counted = [Counter(labels[row] for row in rows) for rows in (own, like)]
    classes = sorted(set().union(*counted))
    return bool(chi2_contingency([[c[label] for label in classes] for c in counted]).pvalue >= MIX_LEVEL)


def _in_the_mix_of(
    own: Sequence[int], like: Sequence[int], labels: Sequence[str], most: int, rng: random.Random
) -> list[int]:
    """About ``most`` of the rows ``like``, in the mix of classes of ``own``."""
    mix = sorted(Counter(labels[row] for row in own).items())
    others = {label: [row for row in like if labels[row] == label] for label, _ in mix}
    each = min([most / len(own), *(len(others[label]) / count for label, count in mix)])
    drawn: list[int] = []
    for label, count in mix:
        drawn += rng.sample(others[label], min(len(others[label]), round(max(each, LEAST_COPIED) * count)))
    return drawn


def _like_but_for_it(weak: Slice, weakness: str, properties: pd.DataFrame, labels: Sequence[str]) -> Mask:
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
    """The same images ``factor`` times in all, ``MOST_OF_ITS_OWN`` at most; against a slice that is merely rare."""
    copies = max(1, min(factor - 1, MOST_OF_ITS_OWN // max(len(sample_ids), 1)))
    return Augmentation("oversampling", tuple(sample_ids[:MOST_OF_ITS_OWN]), copies, unchanged, as_they_are=True)


Repair = Literal["recipe", "oversampling", "collect"]


@dataclass(frozen=True)
class Trial:
    """What a recipe did to images left out: accuracy gained on the slice and elsewhere; and by its baselines.

    ``belief`` is how far the probability of the slice's labels rises by the recipe, ``brier`` how far their Brier score
    falls. ``baseline`` is by showing the slice's images
    as often as there are copies, ``balanced`` by retraining the last layer with slice and rest weighing the same (DFR),
    or as near to that as harms no others.
    ``repair`` is what to do: the recipe, show the slice's images more often (``factor`` times), or ``collect`` more of
    them. ``helps`` says that the slice gains by the recipe for sure, ``harms`` that the recipe is
    not kept for what the rest, or a class or slice of it, loses. ``aligned`` says that the head looked past what most
    tells copies from their images, ``taught`` that the network itself learnt from the recipe, and the head from no
    copy.
    """

    kept: bool
    gain: Estimate
    rest: Estimate
    baseline: Estimate
    words: str
    balanced: Estimate | None = None
    repair: Repair = "collect"
    factor: int = 1
    belief: Estimate | None = None
    brier: Estimate | None = None
    helps: bool = False
    harms: bool = False
    aligned: bool = False
    taught: bool = False


@dataclass(frozen=True)
class _Tried:
    """One way of training: of each sample left out the Brier score and whether it is right, (samples,), and changes.

    ``brier`` is how far the score falls on the slice, ``belief`` how far the probability of the label rises there: the
    few rows of a slice tell by these what they can't by right and wrong.
    """

    scores: npt.NDArray[np.float64]
    right: Mask
    gain: Estimate
    rest: Estimate
    belief: Estimate
    brier: Estimate
    harmed: str


@dataclass(frozen=True, eq=False)
class Ground:
    """What recipes are tried on.

    ``features`` has shape (samples, d), made of parts of these ``widths``; ``labels``, ``inside`` (member of the slice)
    and ``groups`` have shape (samples,); ``others`` are the classes and slices that must not lose, by name, each
    (samples,). Raises RecordError where shapes differ or the slice is empty.
    """

    features: Features
    labels: Integers
    inside: Mask
    groups: Integers
    widths: Sequence[int] = ()
    margin: float = 0.01
    seed: int = 0
    others: Mapping[str, Mask] = field(default_factory=dict)

    def __post_init__(self) -> None:
        count = len(self.features)
        for name, rows in (("labels", self.labels), ("inside", self.inside), ("groups", self.groups)):
            if rows.shape != (count,):
                raise RecordError(f"{name} must have shape ({count},) (samples,), got {rows.shape}")
        if not self.inside.any():
            raise RecordError("a trial needs a slice with at least one sample, but 'inside' is false everywhere")

    def rise(self, augmented: Features, sources: Integers) -> float:
        """How far the probability of the slice's labels rises with these copies; a trial without its baselines."""
        after = self._of_labels(self._left_out(augmented, sources, self._weight(sources)))
        return float((after - self._of_labels(self._before))[self.inside].mean())

    def trial(self, augmented: Features, sources: Integers, *, aligned: bool = False) -> Trial:
        """Try augmented features, (copies, d), made from the rows ``sources``, (copies,), by a head that leaves out.

        The head is the mean of logistic and kernel regression (``curation.regression``), as labels are judged by and as
        a head on views is; a sample is judged without itself, its copies and its group, and copies count as much less
        than images as where a model is trained on them. The baselines repeat as many images of the slice as there are
        copies, and retrain the last layer with slice and rest weighing the same (Kirichenko et al. 2023, "DFR"), which
        gains most of what is to be gained on many benchmarks (Sagawa et al. 2020, Idrissi et al. 2022); where the rest
        is harmed by that, the slice weighs less (``evener``). A recipe is
        kept only where the probability of the slice's labels rises with an interval that excludes zero and its Brier
        score falls, neither the rest nor any of ``others`` loses more than ``margin`` for sure, and the Brier score
        falls further than by the better baseline, for sure where that one helps too; copies of the slice's own images
        are held to that baseline by accuracy. With ``aligned`` the head that sees the copies looks past what most tells
        them from their images (``scaling.nuisance_directions``). Raises RecordError where shapes differ.
        """
        if augmented.shape != (len(sources), self.features.shape[1]):
            raise RecordError(
                f"augmented must have shape ({len(sources)}, {self.features.shape[1]}) (copies, d), "
                f"got {augmented.shape}"
            )
        with_recipe = self._tried(augmented, sources, self._weight(sources), aligned)
        found = self._judged(with_recipe, len(sources), own=bool(self.inside[sources].all()))
        return replace(found, aligned=aligned, words=found.words + (LOOKED_PAST if aligned and found.kept else ""))

    def trial_of(self, seen: Features, copies: int) -> Trial:
        """Try what another network sees of the samples, (samples, d), by the same rule, in place of copies.

        That network may have learnt from no label, and from no image of the slice. The baseline repeats as many images
        as ``copies``. Raises RecordError where the shape is another than that of the features.
        """
        if seen.shape != self.features.shape:
            raise RecordError(f"seen must have shape {self.features.shape} (samples, d), got {seen.shape}")
        nothing = np.zeros(0, dtype=np.int64)
        found = self._judged(self._changed(self._left_out(seen[:0], nothing, features=seen)), copies)
        return replace(found, taught=True, words=found.words + (TAUGHT if found.kept else ""))

    def _judged(self, with_recipe: _Tried, copies: int, own: bool = False) -> Trial:
        """The verdict beside the better baseline: so many repeats, or slice and rest weighing the same."""
        inside = self.inside
        repeats = self._repeats(copies)
        even, balanced = self._balanced
        best = max((repeats, balanced), key=lambda b: (not self._harms(b), b.gain.value, b.brier.value))
        beyond = (
            paired_gain(best.right[inside], with_recipe.right[inside], seed=self.seed)
            if own
            else mean_with_interval((best.scores - with_recipe.scores)[inside], seed=self.seed)
        )
        found = judge(
            with_recipe.gain, with_recipe.rest, best.gain, self.margin, harmed=with_recipe.harmed, beyond=beyond,
            baseline_harms=self._harms(best), belief=with_recipe.belief, brier=with_recipe.brier,
            baseline_brier=best.brier, own=own,
        )  # fmt: skip
        factor = max(round(1 + copies / inside.sum()) if best is repeats else even, 2)
        return replace(
            found, baseline=repeats.gain, balanced=balanced.gain, factor=factor, belief=with_recipe.belief,
            brier=with_recipe.brier,
        )  # fmt: skip

    def _weight(self, sources: Integers) -> float:
        return copy_weight(len(self.labels), len(sources))

    def _left_out(
        self, made: Features, rows: Integers, weight: float = 1.0, aligned: bool = False, *,
        features: Features | None = None,
    ) -> npt.NDArray[np.float64]:  # fmt: skip
        """Probabilities of every sample by heads that saw made copies of ``rows``, but nothing of the sample.

        By other ``features`` of the samples, (samples, d), where they are given.
        """
        of = np.concatenate([np.arange(len(self.labels)), rows])
        labels, classes = self.labels[of], int(self.labels.max()) + 1
        known = self.features if features is None else features
        inputs = Inputs(
            np.concatenate([known, made]), classes, self.groups[of], seed=self.seed, widths=self.widths,
            weights=np.concatenate([np.ones(len(self.labels)), np.full(len(rows), weight)]), overwrite=True,
            altered=(len(self.labels) + np.arange(len(rows)), rows) if aligned else None,
        )  # fmt: skip
        return choose_regressions(inputs, labels).probabilities(labels, labels)[: len(self.labels)]

    @cached_property
    def _before(self) -> npt.NDArray[np.float64]:
        """Probabilities of every sample by the plain head, left out."""
        return self._left_out(self.features[:0], np.zeros(0, dtype=np.int64))

    @cached_property
    def _by_repeats(self) -> dict[int, _Tried]:
        return {}

    def _repeats(self, count: int) -> _Tried:
        """What ``count`` repeated images of the slice change."""
        if count not in self._by_repeats:
            own = np.random.default_rng(self.seed).permutation(np.flatnonzero(self.inside))
            repeated = np.resize(own, count)
            self._by_repeats[count] = self._tried(self.features[repeated], repeated)
        return self._by_repeats[count]

    @cached_property
    def _balanced(self) -> tuple[int, _Tried]:
        """How often each of the slice's images is shown where it weighs what the rest does, and what that changes.

        Where others lose by that, as often as they do not (``evener``), or the least often.
        """
        own = np.random.default_rng(self.seed).permutation(np.flatnonzero(self.inside))
        for even in evener(int(self.inside.sum()), int((~self.inside).sum())):
            evenly = np.tile(own, even - 1)
            found = even, self._tried(self.features[evenly], evenly)
            if not self._harms(found[1]) and found[1].rest.value >= -RISKED * self.margin:
                break
        return found

    def _tried(self, made: Features, rows: Integers, weight: float = 1.0, aligned: bool = False) -> _Tried:
        return self._changed(self._left_out(made, rows, weight, aligned))

    def _changed(self, after: npt.NDArray[np.float64]) -> _Tried:
        """What changed from the plain head to these probabilities of every sample, left out."""
        before, inside = self._before, self.inside
        right, now = before.argmax(axis=1) == self.labels, after.argmax(axis=1) == self.labels
        gain, rest = (paired_gain(right[rows], now[rows], seed=self.seed) for rows in (inside, ~inside))
        scores = brier_scores(after, self.labels)
        belief, fall = (
            mean_with_interval(change[inside], seed=self.seed)
            for change in (
                self._of_labels(after) - self._of_labels(before),
                brier_scores(before, self.labels) - scores,
            )
        )
        return _Tried(scores, now, gain, rest, belief, fall, harmed_by(right, now, self.others, self.margin))

    def _of_labels(self, probabilities: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """What each sample's label is given, (samples,)."""
        return np.asarray(probabilities[np.arange(len(self.labels)), self.labels])

    def _harms(self, tried: _Tried) -> bool:
        return loses(tried.rest, self.margin) or bool(tried.harmed)


def evener(own: int, rest: int) -> list[int]:
    """How often each of ``own`` images may be shown beside ``rest`` others: so that both weigh the same, and less.

    >>> evener(20, 1800), evener(100, 300), evener(200, 9000)
    ([20, 12, 7, 4], [3], [6, 4])
    """
    often = [min(max(round(rest / own), 1), MOST_EVEN, max(1 + MOST_OF_ITS_OWN // own, 2))]
    while (fewer := round(LESS_EVEN * often[-1])) >= LEAST_EVEN:
        often.append(fewer)
    return often


def brier_scores(probabilities: npt.NDArray[np.float64], labels: Integers) -> npt.NDArray[np.float64]:
    """The Brier score of each row of probabilities (rows, classes), (rows,): 0 best, 2 worst (Brier 1950).

    >>> brier_scores(np.array([[0.5, 0.5], [1.0, 0.0]]), np.array([0, 1])).tolist()
    [0.5, 2.0]
    """
    return np.asarray(((probabilities - np.eye(probabilities.shape[1])[labels]) ** 2).sum(axis=1))


def loses(rest: Estimate, margin: float) -> bool:
    """Whether the rest loses more than ``margin``, and more than chance makes of it.

    >>> loses(Estimate(-0.02, (-0.03, -0.01)), 0.01), loses(Estimate(-0.02, (-0.05, 0.01)), 0.01)
    (True, False)
    """
    return rest.value < -margin and (rest.ci is None or rest.ci[1] < 0)


def _surely(estimate: Estimate | None) -> bool:
    return estimate is not None and estimate.ci is not None and estimate.ci[0] > 0


def harmed_by(
    before: Mask,
    after: Mask,
    others: Mapping[str, Mask],
    margin: float,
) -> str:
    """The name of the class or slice that loses most, more than ``margin`` and for sure; empty where none does.

    ``before`` and ``after``, (rows,), say which rows are right, ``others`` by name which are of it. For sure is at 95 %
    for all of them together (two-sided, Bonferroni) by the exact sign test of what changed (McNemar 1947): of ten
    classes one seems to lose by chance alone now and then, and where six rows changed, all for the worse, a bootstrap
    is sure.
    """
    from scipy.stats import binomtest

    worst, name = -margin, ""
    for other, mask in others.items():
        lost, gained = int((before & ~after & mask).sum()), int((~before & after & mask).sum())
        change = (gained - lost) / max(int(mask.sum()), 1)
        if change < worst and binomtest(lost, lost + gained, alternative="greater").pvalue < 0.025 / len(others):
            worst, name = change, other
    return name


def judge(
    gain: Estimate,
    rest: Estimate,
    baseline: Estimate,
    margin: float,
    *,
    harmed: str = "",
    beyond: Estimate | None = None,
    baseline_harms: bool = False,
    belief: Estimate | None = None,
    brier: Estimate | None = None,
    baseline_brier: Estimate | None = None,
    own: bool = False,
) -> Trial:
    """Whether a recipe is kept: it harms nothing else, helps for sure, and more than the baseline; in this order.

    ``harmed`` names a class or slice that loses; ``beyond`` is what the recipe gains over the baseline on the slice, in
    any measure, which must be sure where the baseline helps for sure; one that harms the rest counts for nothing.

    Where ``belief`` is given, the rise of the probability of the slice's labels, and ``brier``, the fall of their Brier
    score, the recipe helps where the first is sure, the second above zero and no accuracy lost for sure: the first
    tells from few rows what accuracy tells from many, while the second falls by copies of any other kind too, which
    make a head less sure of itself (docs/log.md). A baseline must gain accuracy and lower the Brier score for sure:
    images that are shown again make a head surer, for better or worse. So do copies of the slice's ``own`` images,
    which must gain accuracy too. Without the two all is read from the gains.
    Otherwise the baseline is proposed, where it helps and harms nothing, or to collect.
    """
    helps = gain.value > 0 and _surely(gain)
    more = gain.value > baseline.value
    if belief is not None and brier is not None:
        helps = brier.value > 0 and _surely(belief) and (gain.value > 0 if own else gain.ci is None or gain.ci[1] >= 0)
        more = beyond is None or beyond.value > 0
    baseline_helps = baseline.value > 0 and _surely(baseline_brier or baseline) and not baseline_harms
    surely_beyond = beyond is None or _surely(beyond)
    if loses(rest, margin):
        verdict = "Not kept, it harms the other images"
    elif harmed:
        verdict = f"Not kept, it harms {harmed}"
    elif not helps:
        verdict = "Not kept, no gain on the slice shown"
    elif not baseline_harms and (not more or (baseline_helps and not surely_beyond)):
        verdict = "Not kept, showing the slice's images more often does as much"
    else:
        verdict = "Kept"
    figures = (
        f"{_points(gain)} on the slice{_rise(belief)}, {_points(rest)} elsewhere; showing the slice's images more "
        f"often: {_points(baseline)}{', which harms others' if baseline_harms else ''}."
    )
    repair: Repair = "recipe" if verdict == "Kept" else "oversampling" if baseline_helps else "collect"
    ending = {"recipe": "", "oversampling": " So these are shown more often.", "collect": f" {COLLECT}"}[repair]
    words = f"{verdict}: accuracy {figures}{ending}"
    harms = loses(rest, margin) or bool(harmed)
    return Trial(verdict == "Kept", gain, rest, baseline, words, repair=repair, helps=helps, harms=harms)


def _points(estimate: Estimate) -> str:
    """A gain in points of percent with its interval.

    >>> _points(Estimate(0.031, (-0.004, 0.066)))
    '+3.1 points (-0.4 to +6.6)'
    """
    words = f"{100 * estimate.value:+z.1f} points"
    return words if estimate.ci is None else f"{words} ({100 * estimate.ci[0]:+z.1f} to {100 * estimate.ci[1]:+z.1f})"


def _rise(belief: Estimate | None) -> str:
    """How far the probability of labels rises, in words to be put behind a gain.

    >>> _rise(Estimate(0.08, (0.03, 0.125)))
    ' (probability of the labels +8.0 points, +3.0 to +12.5)'
    """
    if belief is None or belief.ci is None:
        return ""
    value, low, high = (100 * v for v in (belief.value, *belief.ci))
    return f" (probability of the labels {value:+z.1f} points, {low:+z.1f} to {high:+z.1f})"


def paired_gain(
    before: Mask,
    after: Mask,
    *,
    resamples: int = 2000,
    seed: int = 0,
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

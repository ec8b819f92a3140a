"""How well weak slices are repaired: slices are planted in real images, and what the toolkit does is held to the truth.

A few train images are darkened, blurred, tilted, covered with glare or shrunk, as many held-out ones as can be measured
on; other slices are out of the reach of augmentation: wrong labels, a frame that goes with another class, a subgroup
that most images are missing of. The slice is given (``benchmarks/slices.py`` measures how well it is found), its words
are those that the project's search finds for it. The project's own code plans the recipe, tries it on train rows and
chooses; then the project's head on views is trained with what it chose, and beside it with the planned recipe, aligned
and not (``curation.scaling.nuisance_directions``), with a network that it taught (``curation.steadying``), with as many
copies by RandAugment and AugMix (timm), of other images and of the slice's own, with plain oversampling of the slice,
with slice and rest weighing the same and less evenly, with every other recipe in its mild default strength, and with as
many other images altered just as the slice was: no recipe by itself can be expected to do better. What can come back at
all is told by a head of nothing but altered images, as many as there are train rows, whatever it does elsewhere. All
are measured on the same held-out rows, which are altered and, to tell what the rest loses, as they are. Data:
``--cifar10n`` or the variable CURATION_CIFAR10N names a zip with ``train.csv`` that holds ``path`` and ``clean_label``;
``--elpv`` adds the photovoltaic cells of package elpv-dataset.

    python benchmarks/repair.py --cifar10n cifar10n.zip --elpv --seeds 2 --json repair.json

Accuracy lost is the accuracy of the same held-out rows unaltered less that of the altered ones; slices within reach
count where it is at least 5 points; what is claimed of all of them is claimed again of those of which the planted
alteration itself brings half back. The exhaustive trial judges every recipe and both baselines on the held-out rows by
the rule that the project applies in cross-validation, but by accuracy alone: that is what a repair is for, and of
hundreds of rows probabilities surely rise by what nobody gains. How often the choice agrees with the whole rule on
these rows is told beside it. Where the project says to review flagged labels first, that is done: those of the slice
are set right, and the case is what is left. Intervals are of a bootstrap over planted cases and held-out rows at once.
``--quick`` takes 1,500 images, one strength, one size and one seed. With ``--few`` the exhaustive trial knows of the
planned recipe and the baselines alone. The more rows ``--held-out``, the less is left to
chance in what the exhaustive trial says. What was encoded is kept in ``--cache``.
``--merge FILE...`` puts the JSON of several runs together, as of one data set each. Exit code 1 where a claim does not
hold.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # runs from a checkout that is not installed

from augment.choose import Trial, brier_scores, evener, harmed_by, judge, loses, paired_gain
from augment.recipes import known_weaknesses, recipe_for
from augment.transforms import build_transform
from benchmarks.altered import ALTERED, Pixels
from benchmarks.claims import conclude
from benchmarks.images import Columns, Features, Floats, Mask, cifar, elpv
from benchmarks.planting import HELD_OUT, Divided, Encoded, PlantedDivided, plant_divided
from curation.config import SliceSettings
from curation.copied import CopiedFeatures
from curation.copies import copy_weight
from curation.features import ViewFeatures, resized
from curation.flagging import judge_labels
from curation.gain import mean_with_interval
from curation.kept import Kept
from curation.records import Augmentation, Classes, Estimate, Sample, Slice
from curation.regression import Inputs
from curation.repairing import Repairer
from curation.scoring import score_inputs
from curation.slices import find_slices
from curation.steadying import ViewTeacher, seen_by
from curation.tracking import review_first
from curation.view_heads import ViewHead, fit_view_head

Transform = Callable[[Pixels, int], Pixels]

ROWS = 4_000
QUICK = 1_500
#: Shares of the train rows that are in the slice.
SIZES = (0.05, 0.10)
REACHED = tuple(kind for kind in ALTERED if kind != "spurious background")
BEYOND: dict[str, float] = {
    "spurious background": 0.14, "wrong labels, named": 0.7, "wrong labels, look-alikes": 0.7, "rare subgroup": 0.0,
}  # fmt: skip
#: Least loss of accuracy at which a slice within reach counts.
LEAST_LOSS = 0.05
#: Different copies by a general policy of each of the slice's own images.
DRAWS = 1
MARGIN = 0.01
BARS = {"recovered": 0.5, "agrees": 0.8}
CHOSEN, PLANNED, OVERSAMPLED, BALANCED, NOTHING = "chosen", "planned recipe", "oversampling", "balanced", "nothing"
#: The slice's images are shown less often than it takes to weigh the same (``augment.choose.evener``).
LESS = tuple(f"balanced, less {number}" for number in range(1, 5))
#: The planned recipe by a head that looks past what most tells its copies from their images.
ALIGNED = "planned, aligned"
#: A head on what a network sees that the planned recipe taught (``curation.steadying``).
TAUGHT = "planned, taught"
#: The best that copies can do: of as many other train images, altered just as the slice was.
ITSELF = "the alteration itself"
#: What can come back at all: a head that is trained on nothing but images altered just as the slice was.
ALONE = "altered images alone"
POLICIES = {"RandAugment": "rand-m9-mstd0.5-mmax9-inc1", "AugMix": "augmix-m3-w3"}
RIVALS = (*POLICIES, *(f"{policy} of the slice" for policy in POLICIES), OVERSAMPLED)


@dataclass(frozen=True)
class Copies:
    """Extra rows to train on: features (copies, d), their labels, and the image or train row that each was made of.

    Images as they are (``plain``) count as much as others; so do copies that a user makes instead of the project.
    The head is to look past what tells ``aligned`` ones from their images.
    """

    features: Features
    labels: Columns
    sources: Columns
    plain: bool = False
    aligned: bool = False

    def weights(self, images: int) -> Floats:
        """What each counts beside so many images, (copies,)."""
        count = len(self.sources)
        return np.full(count, 1.0 if self.plain else copy_weight(images, count))


@dataclass(frozen=True)
class Result:
    """What became of one planted case: gains on the slice and elsewhere by contender, what was chosen, what is best.

    ``truth`` is what the exhaustive trial says, ``by_rule`` what it says by probabilities too. ``reviewed`` labels were
    judged before.
    """

    data: str
    kind: str
    strength: float
    size: float
    seed: int
    words: str
    weakness: str
    within_reach: bool
    lost: float
    counts: bool
    members: int
    held_out: int
    choice: str
    truth: str
    best: str
    by_rule: str
    said: str
    gains: dict[str, float]
    rest: dict[str, float]
    seconds: float
    reviewed: int = 0


# --- copies and training


@dataclass(frozen=True, eq=False)
class Workshop(Divided):
    """Divided images with the copies that are made of them whatever the slice.

    ``teaches`` says whether a recipe may teach the network, ``few`` that contenders which take long are left out.
    """

    teaches: bool = True
    few: bool = False

    @cached_property
    def general(self) -> dict[str, Copies]:
        """Copies of the spare rows by every recipe in its mild default strength."""
        import pandas as pd

        nothing = pd.DataFrame()
        found = {}
        for weakness in known_weaknesses():
            transform = build_transform(recipe_for(weakness, nothing, nothing))
            pixels = np.stack([transform(self.images.pixels[row], int(row)) for row in self.spare])
            found[weakness] = Copies(self.copied(pixels), self.images.labels[self.spare], self.spare)
        return found

    def by_policy(self, name: str, rows: Columns) -> Copies:
        """Copies of these rows by a general policy, each always the same."""
        transform = policy(name)
        pixels = np.stack([transform(self.images.pixels[row], int(row)) for row in rows])
        return Copies(self.copied(pixels), self.images.labels[rows], rows, plain=True)


def policy(name: str) -> Transform:
    """RandAugment or AugMix as timm has them, as a function of pixels and seed."""
    from timm.data.auto_augment import augment_and_mix_transform, rand_augment_transform

    make = augment_and_mix_transform if name == "AugMix" else rand_augment_transform
    chain = make(POLICIES[name], {"translate_const": 12, "img_mean": (128, 128, 128)})

    def transform(image: Pixels, seed: int) -> Pixels:
        from PIL import Image

        random.seed(seed)
        np.random.seed(seed % 2**32)
        return np.asarray(chain(Image.fromarray(image)))

    return transform


@dataclass(frozen=True)
class Heads:
    """The project's heads on views, of train rows with extra copies."""

    features: Features
    labels: Columns
    classes: int
    widths: tuple[int, ...]

    @cached_property
    def plain(self) -> ViewHead:
        return self.repeated(np.zeros(0, dtype=np.int64))

    def with_copies(self, copies: Copies) -> ViewHead:
        """A head that is also trained on copies of train rows ``copies.sources``; no strength is chosen by a copy."""
        rows = np.arange(len(self.labels))
        altered = (len(rows) + np.arange(len(copies.sources)), copies.sources) if copies.aligned else None
        return fit_view_head(
            np.concatenate([self.features, copies.features]), np.concatenate([self.labels, copies.labels]),
            self.classes, groups=np.concatenate([rows, copies.sources]), widths=self.widths, seed=0,
            weights=np.concatenate([np.ones(len(rows)), copies.weights(len(rows))]), altered=altered,
        )[0]  # fmt: skip

    def repeated(self, rows: Columns) -> ViewHead:
        """A head that is also shown these train rows again."""
        return self.with_copies(Copies(self.features[rows], self.labels[rows], rows, plain=True))

    def right(self, head: ViewHead, features: Features, labels: Columns) -> Mask:
        """Which rows a head gets right, (rows,)."""
        return np.asarray(head.probabilities(features).argmax(axis=1) == labels)


# --- what the project does


@dataclass(frozen=True)
class Case:
    """Features and pixels of the images of a planted case, as ``copied.Source`` has them."""

    by_id: Mapping[str, Features]
    shown: Callable[[str], Pixels]

    def features(self, samples: Sequence[Sample], progress: object = None) -> Features:
        """Those of the planted case, altered where it is."""
        return np.stack([self.by_id[s.id] for s in samples])

    def pixels(self, samples: Sequence[Sample]) -> Pixels:
        """The same images."""
        return np.stack([self.shown(s.id) for s in samples])


def given_slice(
    planted: PlantedDivided, labels: Sequence[str], ids: Sequence[str], classes: Classes, seed: int
) -> Slice:
    """The planted train rows as a slice, in the words that the project's search has for them, if any."""
    own = tuple(ids[row] for row in np.flatnonzero(planted.inside))
    found = find_slices(
        planted.table, planted.inside, ids, settings=SliceSettings(), classes=classes, labels=labels, seed=seed
    )
    for slice_ in found[:1]:
        both, either = len(set(own) & set(slice_.sample_ids)), len(set(own) | set(slice_.sample_ids))
        if both >= either / 2:
            return replace(slice_, sample_ids=own, size=len(own))
    return Slice("without words", (), own, len(own), 0, 0.0, (0.0, 1.0), 0.0, 1.0, "rare")


def flagged(shop: Workshop, planted: PlantedDivided) -> Mask:
    """Which labels of train rows the project flags, (rows,)."""
    classes, rows = len(shop.images.names), np.arange(len(planted.labels))
    inputs = Inputs(planted.features, classes, rows, seed=0, widths=shop.widths)
    return judge_labels(score_inputs(inputs, planted.labels).probabilities, planted.labels).flagged


def after_review(shop: Workshop, planted: PlantedDivided) -> tuple[PlantedDivided, Mask]:
    """The case once people have judged what the project wants reviewed before a repair, and which rows they judged.

    They set labels right that are flagged in the slice, as often as the project asks for it.
    """
    ids = [str(row) for row in range(len(planted.labels))]
    weak = Slice("", (), tuple(ids[row] for row in np.flatnonzero(planted.inside)), 0, 0, 0.0, (0.0, 1.0), 0.0, 1.0, "")
    judged = np.zeros(len(ids), dtype=np.bool_)
    while True:
        suspects = flagged(shop, planted) & planted.inside & ~judged
        if not review_first(weak, [ids[row] for row in np.flatnonzero(suspects)]):
            return planted, judged
        judged |= suspects
        true = shop.images.labels[planted.rows]
        planted = replace(planted, labels=np.where(judged, true, planted.labels))


@dataclass(frozen=True)
class Deed:
    """What the project makes of a slice: the planned recipe's copies, what it chose and the copies of that.

    ``network`` is what the recipe taught, if it did, and ``uses`` whether that was chosen.
    """

    weak: Slice
    choice: str
    said: str
    planned: Copies
    chosen: Copies
    network: Taught | None
    uses: bool


class CaseViews(ViewFeatures):
    """The project's views of a planted case's images."""

    def __init__(self, views: ViewFeatures, folder: Path, case: Case) -> None:
        super().__init__(views.backbone, folder, rotation_invariant=views.rotation_invariant)
        self._case = case

    def features(self, samples: Sequence[Sample], progress: object = None) -> Features:
        return self._case.features(samples)

    def pixels(self, samples: Sequence[Sample], progress: object = None) -> Pixels:
        return self._case.pixels(samples)


@dataclass(frozen=True, eq=False)
class Taught:
    """What a network that a recipe taught sees of a planted case's images, and of any others."""

    case: Case
    encoded: Encoded

    def features(self, samples: Sequence[Sample], progress: object = None) -> Features:
        """Those of the planted case."""
        return self.encoded(self.case.pixels(samples))

    def pixels(self, samples: Sequence[Sample]) -> Pixels:
        """The same images."""
        return self.case.pixels(samples)


@dataclass(eq=False)
class Lessons:
    """Teaches as the project does; ``last`` is what came of the last one."""

    views: CaseViews
    case: Case
    folder: Path
    last: Taught | None = None

    def taught(
        self, samples: Sequence[Sample], copies: Augmentation, seed: int, progress: object = None
    ) -> Path | None:
        """The network's file."""
        return ViewTeacher(self.views, self.folder / "networks").taught(samples, copies, seed)

    def seen_by(self, file: Path) -> Taught:
        """What it sees of the case."""
        views = seen_by(self.views, file)

        def encode(made: Pixels) -> Features:
            return views.encode(partial(resized, made))

        self.last = Taught(self.case, Encoded(encode, self.folder / f"taught-{file.stem}.f32", sum(views.widths)))
        return self.last


def repaired(shop: Workshop, planted: PlantedDivided, seed: int) -> Deed:
    """Plan, trial and choice by the project's own code, on train rows alone."""
    from PIL import Image

    names = tuple(f"c{n}" for n in range(len(shop.images.names)))
    ids = [f"row{row}" for row in planted.rows]
    labels = [names[column] for column in planted.labels]
    row_of = {sample_id: row for row, sample_id in enumerate(ids)}
    weak = given_slice(planted, labels, ids, Classes(names, shop.images.names), seed)
    samples = {s: Sample(s, s, shop.folder / f"{s}.png", "train") for s in ids}
    settings = SliceSettings()
    case = Case(dict(zip(ids, planted.features, strict=True)), lambda sample: planted.pixels(row_of[sample]))
    store = CopiedFeatures(case, shop.copied, Kept(), shop.widths)
    lessons = Lessons(CaseViews(shop.views, shop.folder, case), case, shop.folder)
    repairer = Repairer(
        store, case.pixels, lambda chosen, features: np.arange(len(chosen)), samples, settings, seed=seed,
        aligns=lambda folder: True, teacher=lessons if shop.teaches else None,
    )  # fmt: skip
    plans = {recipe.name: made for recipe, made in repairer.plans(weak, planted.table, ids, labels)}
    for made in plans.values():  # what the preview shows is read from files
        for sample_id in made.sample_ids[:6]:
            Image.fromarray(planted.pixels(row_of[sample_id])).save(samples[sample_id].file)
    done = repairer(weak, planted.table, ids, labels, shop.folder, settings.copies_looked_at(len(ids)))
    aimed, used = done.slice, done.copies
    best = json.loads((shop.folder / "trial.json").read_text(encoding="utf-8"))["recipe"]

    def copies(made: Augmentation) -> Copies:
        features, sources = store.copies([samples[s] for s in ids], [made], seed)
        return Copies(features, planted.labels[sources], sources, made.as_they_are, made.aligned)

    planned, chosen = copies(plans[best]), copies(replace(used, network=None))
    return Deed(
        replace(aimed, weakness=best), aimed.repair, aimed.proof, planned, chosen, lessons.last,
        used.network is not None and len(used.sample_ids) > 0,
    )  # fmt: skip


# --- contenders


def trained(
    shop: Workshop, planted: PlantedDivided, deed: Deed, kind: str, strength: float
) -> Iterator[tuple[str, ViewHead]]:
    """A head for each contender; recipes that are not the planned one stand under the weakness they are against."""
    heads = Heads(planted.features, planted.labels, len(shop.images.names), shop.widths)
    count = len(deed.planned.labels)
    own = np.random.default_rng(0).permutation(np.flatnonzero(planted.inside))
    rungs = evener(len(own), len(planted.labels) - len(own))
    yield NOTHING, heads.plain
    yield PLANNED, heads.with_copies(deed.planned)
    yield CHOSEN, heads.with_copies(deed.chosen)
    yield ALIGNED, heads.with_copies(replace(deed.planned, aligned=True))
    yield OVERSAMPLED, heads.repeated(np.resize(own, count))
    for name, often in zip((BALANCED, *LESS), rungs, strict=False):
        yield name, heads.repeated(np.tile(own, often - 1))
    place = {row: number for number, row in enumerate(planted.rows.tolist())}
    may = [row for row in shop.train[::-1].tolist() if row in place and not planted.inside[place[row]]][:count]

    def placed(copies: Copies) -> Copies:
        """Of the rows that the case has, as places among them."""
        of = [n for n, row in enumerate(copies.sources.tolist()) if row in place][:count]
        sources = np.array([place[int(row)] for row in copies.sources[of]], dtype=np.int64)
        return Copies(copies.features[of], copies.labels[of], sources, copies.plain)

    others = np.array(may, dtype=np.int64)
    for name, copies in ({} if shop.few else shop.general).items():
        yield name, heads.with_copies(placed(copies))
    for name in POLICIES:
        yield name, heads.with_copies(placed(shop.by_policy(name, others)))
    if kind in REACHED:
        altered = shop.copied(shop.altered(kind, strength, others))
        yield ITSELF, heads.with_copies(placed(Copies(altered, shop.images.labels[others], others)))
    if kind in REACHED and not shop.few:
        rest = planted.rows[~planted.inside]
        every = np.concatenate([shop.copied(shop.altered(kind, strength, rest)), planted.features[planted.inside]])
        true = np.concatenate([shop.images.labels[rest], planted.labels[planted.inside]])
        yield ALONE, Heads(every, true, heads.classes, heads.widths).plain
    for name in POLICIES:
        yield f"{name} of the slice", heads.with_copies(_of_slice(shop, planted, own, policy(name), count))


def _of_slice(shop: Workshop, planted: PlantedDivided, own: Columns, transform: Transform, count: int) -> Copies:
    """``count`` copies of the slice's own images, of ``DRAWS`` different ones of each."""
    rows = np.concatenate([own] * DRAWS)[:count]
    draws = np.repeat(np.arange(DRAWS), len(own))[:count]
    made = [transform(planted.pixels(int(row)), int(7919 * draw + planted.rows[row]))
            for row, draw in zip(rows, draws, strict=True)]  # fmt: skip
    again = np.resize(np.arange(len(rows)), count)
    return Copies(shop.copied(np.stack(made))[again], planted.labels[rows[again]], rows[again], plain=True)


@dataclass(frozen=True)
class Outcome:
    """What a contender changes on held-out rows: gain on the slice, change elsewhere, and a class that surely loses.

    ``belief`` is how far the probability of the slice's labels rises, ``brier`` how far their Brier score falls;
    ``right`` (rows,) says what is right now, ``scores`` (rows,) are the Brier scores.
    """

    gain: Estimate
    rest: Estimate
    harmed: str
    belief: Estimate
    brier: Estimate
    right: Mask
    scores: Floats

    @property
    def harms(self) -> bool:
        return loses(self.rest, MARGIN) or bool(self.harmed)


def outcome(plain: Floats, now: Floats, inside: Mask, labels: Columns) -> Outcome:
    """Of probabilities before and now, (rows, classes); ``inside`` (in the slice) and ``labels`` have shape (rows,)."""
    before, right = (p.argmax(axis=1) == labels for p in (plain, now))
    others = {f"class {column}": ~inside & (labels == column) for column in np.unique(labels[~inside])}
    rise = now[np.arange(len(labels)), labels] - plain[np.arange(len(labels)), labels]
    scores = brier_scores(now, labels)
    return Outcome(
        paired_gain(before[inside], right[inside]), paired_gain(before[~inside], right[~inside]),
        harmed_by(before, right, others, MARGIN), mean_with_interval(rise[inside]),
        mean_with_interval((brier_scores(plain, labels) - scores)[inside]), right, scores,
    )  # fmt: skip


def exhaustive(
    of: Mapping[str, Floats], recipes: Sequence[str], inside: Mask, labels: Columns, *, by_accuracy: bool = True,
    own: Sequence[str] = (),
) -> tuple[str, str]:  # fmt: skip
    """What is best to do by the truth, and by which recipe or baseline: the project's rule with all recipes to pick.

    ``of`` has for each contender the probabilities of held-out rows, (rows, classes). Without ``by_accuracy`` the rule
    goes by them too, as in the project; copies by the recipes ``own`` are of the slice's own images.
    """
    baselines = [name for name in (OVERSAMPLED, BALANCED, *LESS) if name in of]
    found = {name: outcome(of[NOTHING], of[name], inside, labels) for name in (*recipes, *baselines)}
    baseline = max(baselines, key=lambda name: (not found[name].harms, found[name].gain.value))
    beside = found[baseline]

    def judged(name: str) -> Trial:
        tried = found[name]
        if by_accuracy or name in own:
            beyond = paired_gain(beside.right[inside], tried.right[inside])
        else:
            beyond = mean_with_interval((beside.scores - tried.scores)[inside])
        told = {"belief": tried.belief, "brier": tried.brier, "baseline_brier": beside.brier}
        return judge(
            tried.gain, tried.rest, beside.gain, MARGIN, harmed=tried.harmed, beyond=beyond,
            baseline_harms=beside.harms, own=name in own, **({} if by_accuracy else told),
        )  # fmt: skip

    def worth(name: str) -> tuple[bool, bool, float]:
        verdict = judged(name)
        return verdict.kept, verdict.helps, (found[name].gain if by_accuracy else found[name].belief).value

    best = max(recipes, key=worth)
    verdict = judged(best).repair
    return verdict, {"recipe": best, "oversampling": baseline, "collect": NOTHING}[verdict]


# --- measuring


@dataclass(frozen=True, eq=False)
class Measured:
    """A result, and by contender which held-out rows it gets right, (rows,); ``WHOLE`` stands for no weakness."""

    result: Result
    right: Mapping[str, Mask]
    inside: Mask


WHOLE = "without the weakness"


def measure(shop: Workshop, kind: str, strength: float, size: float, seed: int) -> Measured:
    """Plant, let the project repair, and hold that against the others and the truth."""
    began = time.perf_counter()
    planted, judged = after_review(shop, plant_divided(shop, kind, strength, size, seed))
    deed = repaired(shop, planted, seed)
    seconds = time.perf_counter() - began
    inside, labels = planted.held_inside, planted.held_labels
    contenders = trained(shop, planted, deed, kind, strength)
    of = {name: head.probabilities(planted.held_features) for name, head in contenders}
    if deed.network:
        every = np.stack([planted.pixels(row) for row in range(len(planted.labels))])
        on_taught = Heads(deed.network.encoded(every), planted.labels, len(shop.images.names), shop.widths)
        of[TAUGHT] = on_taught.plain.probabilities(deed.network.encoded(planted.held_pixels()))
        of |= {CHOSEN: of[TAUGHT]} if deed.uses else {}
    right = {name: np.asarray(found.argmax(axis=1) == labels) for name, found in of.items()}
    right[WHOLE] = right[NOTHING].copy()
    without = Heads(*planted.whole, len(shop.images.names), shop.widths)
    right[WHOLE][inside] = without.right(without.plain, planted.whole_held, labels[inside])
    recipes = [name for name in (PLANNED, ALIGNED, TAUGHT, *known_weaknesses()) if name in of]
    truth, best = exhaustive(of, recipes, inside, labels)
    own = (PLANNED, ALIGNED) if planted.inside[deed.planned.sources].all() else ()
    by_rule, _ = exhaustive(of, recipes, inside, labels, by_accuracy=False, own=own)
    lost = float(right[WHOLE][inside].mean() - right[NOTHING][inside].mean())
    gains, rest = (
        {name: float(r[rows].mean() - right[NOTHING][rows].mean()) for name, r in right.items()}
        for rows in (inside, ~inside)
    )
    result = Result(
        shop.images.name, kind, strength, size, seed, deed.weak.name, deed.weak.weakness, kind in REACHED, lost,
        kind in REACHED and lost >= LEAST_LOSS, int(planted.inside.sum()), int(inside.sum()), deed.choice, truth, best,
        by_rule, deed.said, gains, rest, seconds, int(judged.sum()),
    )  # fmt: skip
    return Measured(result, right, inside)


def runs(shop: Workshop, seeds: Sequence[int], quick: bool, only: Sequence[str]) -> Iterator[Measured]:
    """All kinds, or ``only`` some, strengths, sizes and seeds."""
    kinds = [(kind, strength) for kind in REACHED for strength in ALTERED[kind][1][quick:]] + list(BEYOND.items())
    kinds = [(kind, strength) for kind, strength in kinds if not only or kind in only]
    for seed in seeds:
        for size in SIZES[:1] if quick else SIZES:
            for kind, strength in kinds:
                yield measure(shop, kind, strength, size, seed)


def pooled(tables: Sequence[Floats], over: Sequence[Floats] | None = None, draws: int = 2000) -> Estimate:
    """The mean of changes with a bootstrap interval over cases and rows at once, or that of the ratio of two sums.

    Each table, one for a data set and number of rows, has shape (cases, rows) and NaN where a case does not measure a
    row; ``over`` holds the tables of the divisor, by default ones.

    >>> pooled([np.array([[1.0, 0.0, np.nan], [1.0, 1.0, 1.0]])]).value
    0.8
    """
    rng = np.random.default_rng(0)
    sums = np.zeros((2, draws + 1))
    for number, table in enumerate(tables):
        divisor = over[number] if over is not None else np.where(np.isnan(table), np.nan, 1.0)
        cases, rows = (
            np.concatenate([np.ones((1, n)), rng.multinomial(n, np.full(n, 1 / n), draws)]) for n in table.shape
        )
        for place, values in enumerate((table, divisor)):
            sums[place] += ((cases @ np.nan_to_num(values)) * rows).sum(axis=1)
    ratios = sums[0] / np.where(sums[1] == 0, np.nan, sums[1])
    low, high = np.nanpercentile(ratios[1:], [2.5, 97.5])
    return Estimate(float(ratios[0]), (float(low), float(high)))


def changes(found: Sequence[Measured], name: str, other: str, *, elsewhere: bool = False) -> list[Floats]:
    """What contender ``name`` gains over ``other``, tables as ``pooled`` takes them; in the slice, or elsewhere."""
    tables = []
    for of in dict.fromkeys((m.result.data, len(m.inside)) for m in found):
        rows = []
        for m in (m for m in found if (m.result.data, len(m.inside)) == of):
            change = m.right[name].astype(np.float64) - m.right[other]
            rows.append(np.where(m.inside ^ elsewhere, change, np.nan))
        tables.append(np.stack(rows))
    return tables


def summary(found: Sequence[Measured]) -> list[dict[str, Any]]:
    """Claims against their bars, each with the estimate that it rests on."""
    reached = [m for m in found if m.result.counts]
    claims = []

    def claim(name: str, estimate: Estimate, value: float, bar: float) -> None:
        claims.append({"name": name, "value": round(value, 4), "bar": bar, "holds": bool(value >= bar),
                       "estimate": estimate.value, "ci": estimate.ci})  # fmt: skip

    for slices, words in (reached, "within reach"), (repairable(reached), "that the alteration itself repairs by half"):
        if slices:
            share = pooled(changes(slices, CHOSEN, NOTHING), changes(slices, WHOLE, NOTHING))
            claim(f"share of the accuracy lost that the choice recovers, {len(slices)} slices {words}",
                  share, share.value, BARS["recovered"])  # fmt: skip
    if reached:
        for rival in RIVALS:
            beyond = pooled(changes(reached, CHOSEN, rival))
            claim(f"gain on the slice over {rival} of equal cost, lower end of the interval",
                  beyond, (beyond.ci or (0, 0))[0], 1e-9)  # fmt: skip
    agrees = [float(m.result.choice == m.result.truth) for m in found]
    claim(f"choices that agree with the exhaustive trial, {len(found)} slices",
          Estimate(float(np.mean(agrees))), float(np.mean(agrees)), BARS["agrees"])  # fmt: skip
    rest = pooled(changes(found, CHOSEN, NOTHING, elsewhere=True))
    claim("change of accuracy elsewhere, upper end of the interval", rest, (rest.ci or (0, 0))[1], 0.0)
    return claims


def repairable(reached: Sequence[Measured]) -> list[Measured]:
    """The slices of which copies altered just as they were bring at least half back."""
    return [m for m in reached if m.result.gains[ITSELF] >= BARS["recovered"] * m.result.lost]


def shares_recovered(found: Sequence[Measured]) -> dict[str, Estimate]:
    """Share of the accuracy lost, on slices within reach that count, that each contender brings back."""
    reached = [m for m in found if m.result.counts]
    if not reached:
        return {}
    lost = changes(reached, WHOLE, NOTHING)
    shown = (CHOSEN, PLANNED, ALIGNED, TAUGHT, *RIVALS, BALANCED, ITSELF, ALONE)
    shown = tuple(name for name in shown if all(name in m.right for m in reached))
    return {name: pooled(changes(reached, name, NOTHING), lost) for name in shown}


def share_of_possible(found: Sequence[Measured]) -> Estimate | None:
    """What the choice brings back on slices within reach that count, over what altered images alone do.

    A tilted or covered image has lost some of what it showed to a network that is not trained anew; the rest is what
    augmentation can bring.
    """
    reached = [m for m in found if m.result.counts and ALONE in m.right]
    return pooled(changes(reached, CHOSEN, NOTHING), changes(reached, ALONE, NOTHING)) if reached else None


def print_table(found: Sequence[Measured]) -> None:
    """Points of accuracy lost and gained by kind and contender, and how often the choice agrees."""
    shown = (CHOSEN, PLANNED, ALIGNED, TAUGHT, *RIVALS, BALANCED, ITSELF, ALONE)
    print(f"\n{'planted':32}{'cases':>6}{'lost':>7}" + "".join(f"{c[:15]:>16}" for c in shown) + f"{'agrees':>8}  best")
    for data, kind in dict.fromkeys((m.result.data, m.result.kind) for m in found):
        own = [m for m in found if (m.result.data, m.result.kind) == (data, kind)]
        results = [m.result for m in own]
        cells = "".join(f"{100 * np.mean([r.gains.get(c, np.nan) for r in results]):+16.1f}" for c in shown)
        best = "; ".join(dict.fromkeys(r.best for r in results))
        print(f"{data + ', ' + kind:32.32}{len(own):6}{100 * np.mean([r.lost for r in results]):7.1f}{cells}"
              f"{np.mean([r.choice == r.truth for r in results]):8.2f}  {best}")  # fmt: skip


def print_row(row: Result) -> None:
    """One line a case, as it comes."""
    shown = [n for n in (CHOSEN, PLANNED, ALIGNED, TAUGHT, *RIVALS, BALANCED, ITSELF, ALONE) if n in row.gains]
    gains = ", ".join(f"{n} {100 * row.gains[n]:+.1f}" for n in shown)
    print(
        f"{row.data} {row.kind} {row.strength:g} size {row.size:.0%} seed {row.seed}: lost {100 * row.lost:.1f} of "
        f"{row.held_out} rows, {row.members} members, {row.reviewed} reviewed, '{row.words}' ({row.weakness}); "
        f"{row.choice}, truth {row.truth} "
        f"by {row.best} ({100 * row.gains[row.best]:+.1f}), by the whole rule {row.by_rule}; {gains}; "
        f"{row.seconds:.0f} s", flush=True,
    )  # fmt: skip


# --- data


def read_options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--cifar10n", type=Path, default=os.environ.get("CURATION_CIFAR10N"), help="zip of CIFAR-10N")
    parser.add_argument("--elpv", action="store_true", help="ELPV (package elpv-dataset); also where no zip is named")
    parser.add_argument("--rows", type=int, help=f"images of each data set at most ({ROWS:,}, quick {QUICK:,})")
    parser.add_argument("--held-out", type=float, default=HELD_OUT, help=f"share of these held out ({HELD_OUT})")
    parser.add_argument("--seeds", type=int, default=2, help="draws of each planted slice (2)")
    parser.add_argument("--first-seed", type=int, default=0, help="number of the first draw (0)")
    parser.add_argument("--kinds", nargs="+", choices=(*REACHED, *BEYOND), default=(), help="plant only these (all)")
    parser.add_argument("--quick", action="store_true", help="fewer images, one strength, size and seed")
    parser.add_argument(
        "--few", action="store_true", help="only the planned recipe, and no head of altered images alone"
    )
    parser.add_argument("--no-stability", action="store_true", help="teach no network by a recipe: minutes a case less")
    parser.add_argument("--cache", type=Path, help="folder that keeps features (a temporary one)")
    parser.add_argument("--json", type=Path, help="write everything that was measured")
    parser.add_argument("--merge", type=Path, nargs="+", help="put the JSON of runs together instead of running")
    return parser.parse_args(arguments)


def run(options: argparse.Namespace) -> list[Measured]:
    """Every case that is asked for, each printed as it comes."""
    found: list[Measured] = []
    with tempfile.TemporaryDirectory() as folder:
        cache = options.cache or Path(folder)
        cache.mkdir(parents=True, exist_ok=True)
        rows = options.rows or (QUICK if options.quick else ROWS)
        loaded = [cifar(options.cifar10n, rows, cache)] if options.cifar10n else []
        loaded += [elpv(cache)] if options.elpv or not loaded else []
        shops = [Workshop.of(one, rows, cache, options.held_out) for one in loaded]
        shops = [replace(shop, teaches=not options.no_stability, few=options.few) for shop in shops]
        for shop in shops:
            seeds = range(options.first_seed, options.first_seed + (1 if options.quick else options.seeds))
            for m in runs(shop, seeds, options.quick, options.kinds):
                found.append(m)
                print_row(m.result)
    return found


def packed(rows: Mask) -> str:
    """Eight rows a byte, in hexadecimal."""
    return np.packbits(rows).tobytes().hex()


def unpacked(text: str, count: int) -> Mask:
    """The inverse of ``packed``; ``count`` is how many rows there were."""
    return np.unpackbits(np.frombuffer(bytes.fromhex(text), dtype=np.uint8))[:count].astype(np.bool_)


def told(m: Measured) -> dict[str, Any]:
    """A case as plain values."""
    right = {name: packed(rows) for name, rows in m.right.items()}
    return asdict(m.result) | {"rows": len(m.inside), "inside": packed(m.inside), "right": right}


def merged(files: Sequence[Path]) -> list[Measured]:
    """The cases of several runs' JSON, as ``told`` has them."""
    found = []
    for values in (row for file in files for row in json.loads(file.read_text(encoding="utf-8"))["planted"]):
        count, inside, right = (values.pop(key) for key in ("rows", "inside", "right"))
        masks = {name: unpacked(rows, count) for name, rows in right.items()}
        found.append(Measured(Result(**values), masks, unpacked(inside, count)))
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print the table and the claims, write JSON; 1 where a claim does not hold."""
    options = read_options(arguments)
    found = merged(options.merge) if options.merge else run(options)
    claims = summary(found)
    print_table(found)
    shares = shares_recovered(found)
    for name, share in shares.items():
        low, high = share.ci or (share.value, share.value)
        print(f"share of the accuracy lost recovered by {name}: {share.value:+.2f} ({low:+.2f} to {high:+.2f})")
    if possible := share_of_possible(found):
        low, high = possible.ci or (possible.value, possible.value)
        print(f"of what {ALONE} bring back the choice brings {possible.value:.0%} ({low:.0%} to {high:.0%})")
    by_rule = [m.result.choice == m.result.by_rule for m in found]
    print(f"with an exhaustive trial that goes by probabilities too {sum(by_rule)} of {len(found)} choices agree")
    recovered = {name: asdict(share) for name, share in shares.items()}
    recovered |= {"of what can come back": asdict(possible)} if possible else {}
    return conclude(claims, {"recovered": recovered, "planted": [told(m) for m in found]}, options.json)


if __name__ == "__main__":
    sys.exit(main())

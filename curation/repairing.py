"""What is done about a weak slice: its recipe is tried cheaply, and what is proven is used, beside the loop.

The trial sees cached features of the training images and features of augmented copies, of a few first and of up to
``choose.MOST_COPIES`` where these gain anything; no holdout row takes part.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt

from curation.config import SliceSettings
from curation.copied import CopiedFeatures, Source
from curation.parts import Repaired
from curation.records import Augmentation, Estimate, Progress, Sample, Slice
from curation.runs import write_json, write_whole

if TYPE_CHECKING:
    import pandas as pd

    from augment.choose import Ground, Trial
    from augment.recipes import Recipe, Softness

#: The trial is made on the slice and at most this many others, drawn at random.
MOST_OTHERS = 3_000
#: Images of a soft slice, and of the rest, that are measured in the size that copies are made in.
MOST_MEASURED = 50
#: How far the rest is softened, from not at all on, where it is measured (``recipes.USUAL_SOFTNESS``), in pixels.
SOFTENED = {
    "blurred": (0.0, 1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0, 24.0),
    "low_resolution": (1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0),
}
#: Sizes at which sharpness is measured, one in so many pixels: the first where the slice has this many times as much
#: of it as the softest images of the rest.
SHRUNK, TELLING = (1, 2, 4), 1.3
#: A recipe is tried with a few copies first, between so many, and with all of them only where these gain anything; it
#: is used with half, a quarter, but no fewer than the first of them where all harm others.
FEWEST_FIRST, FIRST_COPIES = 50, 300
#: A network is taught where copies raise the probability of the slice's labels by this much.
PROMISING = 0.01
#: One copy each of many samples are nearly as many as several of few from this share on.
NEARLY = 0.75

Features = npt.NDArray[np.float32]
Pixels = npt.NDArray[np.uint8]


class Teacher(Protocol):
    """Teaches a copy of the network to see images that a recipe changed as it sees the images."""

    def taught(
        self, samples: Sequence[Sample], copies: Augmentation, seed: int, progress: Progress | None = None
    ) -> Path | None:
        """The file of a network that as many of the samples as it takes, the first, taught; ``None`` if it can't be."""
        ...

    def seen_by(self, file: Path) -> Source:
        """What the network in a file sees of samples."""
        ...


@dataclass(frozen=True)
class Repairer:
    """Tries a slice's recipe and says what is to be done; a slice in, the slice with its repair and copies out.

    ``pixels`` gives samples as arrays of shape (n, side, side, 3), ``group`` the numbers of images that must not be
    left out one without the other, ``class_name`` what a class id is called. ``recipes`` are the user's own; with
    ``settings.trial`` a recipe that is not proven is used too. ``aligns`` says of an iteration's folder whether the
    model that is trained there can look past what a recipe changes, as a head on views can. ``teacher`` teaches the
    network by a recipe where such a model can be trained on it, ``None`` where that is not wanted.
    """

    store: CopiedFeatures
    pixels: Callable[[Sequence[Sample]], Pixels]
    group: Callable[[Sequence[Sample], Features], npt.NDArray[np.int64]]
    samples: Mapping[str, Sample]
    settings: SliceSettings
    recipes: Sequence[Recipe] = ()
    seed: int = 0
    class_name: Callable[[str], str] = str
    progress: Progress | None = None
    aligns: Callable[[Path], bool] = lambda folder: False
    teacher: Teacher | None = None

    def __call__(
        self,
        weak: Slice,
        properties: pd.DataFrame,
        sample_ids: Sequence[str],
        labels: Sequence[str],
        folder: Path,
        most: int,
        unlabeled: Sequence[Sample] = (),
    ) -> Repaired:
        """Plan, try what may help, and judge the best of it.

        Writes ``recipe.json``, ``trial.json`` and ``recipe.png``, those of the best, into ``folder``. ``properties``
        has a row for each of ``sample_ids``, whose class ids are ``labels``. The copies are none where only collecting
        more helps. No more than ``most`` copies are looked at, those of the first look at each recipe included.
        ``unlabeled`` images may teach the network as well.
        """
        from augment.choose import again

        planned = self.plans(weak, properties, sample_ids, labels)
        chosen, ground = self._ground(weak, [copies for _, copies in planned], sample_ids, labels)
        few = first_look(most, len(planned))
        firsts = [first_of(copies, few) for _, copies in planned]
        rises = [ground.rise(*self._made(chosen, first)) for first in firsts]
        best = max(range(len(rises)), key=rises.__getitem__)
        spent = sum(map(number_of, firsts))
        recipe, copies = planned[best]
        copies = first_of(copies, most - spent + number_of(firsts[best])) if rises[best] > 0 else firsts[best]
        spent += number_of(copies) - number_of(firsts[best])
        both = self.aligns(folder)
        tried = self._trial(ground, chosen, copies, both)
        fewer, of_fewer = copies, tried
        while of_fewer.harms and of_fewer.helps and number_of(fewer) > few:  # half of them, and so on
            fewer = first_of(copies, max(number_of(fewer) // 2, few))
            of_fewer = self._trial(ground, chosen, fewer, both)
        if of_fewer.kept and fewer is not copies:
            more = f" {number_of(copies)} copies, in place of {number_of(fewer)}, harm others."
            tried, copies = replace(of_fewer, words=of_fewer.words + more), fewer
        if both and rises[best] > 0 and _promising(tried):
            taught, network = self._taught(ground, chosen, copies, set(weak.sample_ids), sample_ids, unlabeled)
            if taught is not None and _worth(taught) > _worth(tried):
                tried, copies = taught, replace(copies, network=network)
        copies = replace(copies, aligned=tried.aligned)
        write_json(folder / "recipe.json", recipe.to_dict())
        write_json(folder / "trial.json", {"slice": weak.name, "recipe": recipe.name, **told(tried)})
        self._preview(recipe, copies, folder)
        aimed = replace(weak, repair=tried.repair, proof=tried.words, recipe=None)
        if tried.repair == "recipe":
            return Repaired(replace(aimed, recipe=recipe.name), copies, spent)
        if self.settings.trial:
            return Repaired(replace(aimed, recipe=recipe.name, repair="unproven"), copies, spent)
        if tried.repair == "oversampling":
            return Repaired(replace(aimed, recipe="oversampling"), again(weak.sample_ids, tried.factor), spent)
        return Repaired(aimed, replace(copies, sample_ids=()), spent)

    def plans(
        self, weak: Slice, properties: pd.DataFrame, sample_ids: Sequence[str], labels: Sequence[str]
    ) -> list[tuple[Recipe, Augmentation]]:
        """The recipes that would be tried, each with its copies."""
        from augment.choose import aims, plan

        found = []
        for weakness in aims(weak, properties, sample_ids):
            aimed = replace(weak, weakness=weakness)
            known, softness = self._softness(aimed, properties, sample_ids)
            found.append(plan(aimed, known, sample_ids, labels, self.settings, self.seed, self.recipes, softness))
        return found

    def _softness(
        self, weak: Slice, properties: pd.DataFrame, sample_ids: Sequence[str]
    ) -> tuple[pd.DataFrame, Softness]:
        """Properties with the sharpness, and sharpness by how soft, of images in the size that copies are made in.

        How many pixels take an image to the slice's sharpness depends on its size and on what it shows, so a slice
        that is soft is measured anew: some images of it, and some of the rest softened further and further. Images so
        soft that a little more or less can't be told are measured at a half or a quarter of their size.
        """
        from augment.recipes import Recipe, softening
        from augment.transforms import build_transform
        from curation.properties import measure_pixels

        how = weak.weakness
        if how not in SOFTENED:
            return properties, ()
        members = set(weak.sample_ids)
        own = np.array([s in members for s in sample_ids], dtype=np.bool_)
        rng = np.random.default_rng(self.seed)
        inside, rest = (rng.permutation(np.flatnonzero(rows))[:MOST_MEASURED] for rows in (own, ~own))
        if not len(rest):
            return properties, ()
        seen, usual = (self.pixels([self.samples[sample_ids[row]] for row in rows]) for rows in (inside, rest))

        steps = [build_transform(Recipe(how, how, (softening(how, by, by),), "")) for by in SOFTENED[how][1:]]
        softer = [usual, *(np.stack([step(image, 0) for image in usual]) for step in steps)]

        def sharp(images: Pixels, shrunk: int) -> npt.NDArray[np.float64]:
            return np.array([measure_pixels(reduced(image, shrunk))["sharpness"] for image in images])

        for shrunk in SHRUNK:
            own_levels, levels = sharp(seen, shrunk), [sharp(images, shrunk) for images in softer]
            left = [float(np.median(found)) for found in levels]
            if np.median(own_levels) > TELLING * left[-1]:
                break
        softness = list(zip(SOFTENED[how], np.minimum.accumulate(left).tolist(), strict=True))
        column = np.full(len(sample_ids), np.nan)
        column[inside], column[rest] = own_levels, levels[0]
        return properties.assign(sharpness=column), softness

    def _ground(
        self, weak: Slice, copies: Sequence[Augmentation], sample_ids: Sequence[str], labels: Sequence[str]
    ) -> tuple[list[Sample], Ground]:
        """What recipes are tried on: the slice, what is copied, and some others."""
        from augment.choose import Ground

        own = set(weak.sample_ids)
        rows = self._drawn(sample_ids, own.union(*(c.sample_ids for c in copies)))
        class_ids, columns = np.unique([labels[row] for row in rows], return_inverse=True)
        chosen = [self.samples[sample_ids[row]] for row in rows]
        features = self.store.features(chosen)
        inside = np.array([s.id in own for s in chosen], dtype=np.bool_)
        others = {
            f"other images labeled {self.class_name(str(c))}": (columns == n) & ~inside for n, c in enumerate(class_ids)
        }
        return chosen, Ground(
            features, columns.astype(np.int64), inside, self.group(chosen, features), self.store.widths,
            seed=self.seed, others=others,
        )  # fmt: skip

    def _trial(self, ground: Ground, chosen: Sequence[Sample], copies: Augmentation, both: bool) -> Trial:
        """The trial of the copies as they are, or with ``both`` that of them aligned too, whichever is better."""
        made = self._made(chosen, copies)
        return max((ground.trial(*made, aligned=aligned) for aligned in (False, True)[: 1 + both]), key=_worth)

    def _taught(
        self, ground: Ground, chosen: Sequence[Sample], copies: Augmentation, own: set[str],
        sample_ids: Sequence[str], unlabeled: Sequence[Sample],
    ) -> tuple[Trial | None, Path | None]:  # fmt: skip
        """The trial of a network that is taught by the copies' recipe, and its file; nothing where none is.

        Images that are trained on teach first, but those of the slice (``own``), then ``unlabeled`` ones. Copies of the
        slice's own images, against rarity, teach nothing.
        """
        if self.teacher is None or own.issuperset(copies.sample_ids):
            return None, None
        rng = np.random.default_rng(self.seed)
        trained = [self.samples[s] for s in sample_ids if s not in own]
        teach = [some[place] for some in (trained, unlabeled) for place in rng.permutation(len(some))]
        file = self.teacher.taught(teach, copies, self.seed, self.progress)
        if file is None:
            return None, None
        seen = self.teacher.seen_by(file).features(chosen, self.progress)
        return ground.trial_of(seen, number_of(copies)), file

    def _made(self, chosen: Sequence[Sample], copies: Augmentation) -> tuple[Features, npt.NDArray[np.int64]]:
        """Features of the copies, and the row of the sample that each was made from."""
        return self.store.copies(chosen, [copies], self.seed, self.progress)

    def _drawn(self, sample_ids: Sequence[str], needed: set[str]) -> npt.NDArray[np.int64]:
        """The rows of what is needed, and of some others."""
        must = np.array([s in needed for s in sample_ids], dtype=np.bool_)
        rest = np.random.default_rng(self.seed).permutation(np.flatnonzero(~must))[:MOST_OTHERS]
        return np.sort(np.concatenate([np.flatnonzero(must), rest])).astype(np.int64)

    def _preview(self, recipe: Recipe, copies: Augmentation, folder: Path) -> None:
        from augment.preview import contact_sheet
        from augment.transforms import build_transform
        from curation.images import read_image

        shown = [read_image(self.samples[s].file, self.samples[s].bits) for s in copies.sample_ids[:6]]
        if shown:
            write_whole(folder / "recipe.png", contact_sheet(shown, build_transform(recipe), seed=self.seed))


def _promising(tried: Trial) -> bool:
    """Whether copies let the slice's labels be believed more for sure, and by enough for the minutes of a lesson."""
    belief = tried.belief
    return belief is not None and belief.ci is not None and belief.ci[0] > 0 and belief.value >= PROMISING


def _worth(tried: Trial) -> tuple[bool, bool, float]:
    """What is kept is better than what is not, then what lets the slice's labels be believed more."""
    return tried.kept, tried.helps, tried.belief.value if tried.belief else 0.0


def first_look(most: int, recipes: int) -> int:
    """How many copies each of so many recipes is tried with first, where ``most`` may be looked at in all.

    Together a quarter of them, or where these are very few a half: what they spend the best recipe goes without.

    >>> first_look(2000, 1), first_look(1000, 2), first_look(300, 3), first_look(100, 2)
    (300, 125, 50, 25)
    """
    return min(FIRST_COPIES, max(most // (4 * recipes), min(FEWEST_FIRST, most // (2 * recipes))))


def first_of(copies: Augmentation, most: int) -> Augmentation:
    """``most`` of the copies at most: rather one each of many samples than several of few, where nearly as many.

    >>> dark = Augmentation("dark", ("a", "b", "c"), 2, lambda image, seed: image)
    >>> [(few.sample_ids, few.copies) for few in (first_of(dark, 4), first_of(dark, 5))]
    [(('a', 'b', 'c'), 1), (('a', 'b'), 2)]
    """
    samples = len(copies.sample_ids)
    wanted = NEARLY * min(most, number_of(copies))
    each = 1
    while each < copies.copies and min(samples, most // each) * each < wanted:
        each += 1
    return replace(copies, sample_ids=copies.sample_ids[: most // each], copies=each)


def number_of(copies: Augmentation) -> int:
    """How many copies there are."""
    return len(copies.sample_ids) * copies.copies


def reduced(image: Pixels, by: int) -> Pixels:
    """The image at one in ``by`` pixels, each the mean of those that it stands for."""
    from PIL import Image

    side = (max(image.shape[1] // by, 1), max(image.shape[0] // by, 1))
    return image if by == 1 else np.asarray(Image.fromarray(image).resize(side, Image.Resampling.BOX))


def told(tried: Trial) -> dict[str, object]:
    """A trial as plain values: gains as fractions with their 95 % intervals."""

    def plain(estimate: Estimate | None) -> object:
        return None if estimate is None else {"value": estimate.value, "ci": estimate.ci and list(estimate.ci)}

    figures = {
        "gain": tried.gain, "belief": tried.belief, "brier": tried.brier, "rest": tried.rest,
        "oversampling": tried.baseline, "balanced": tried.balanced,
    }  # fmt: skip
    about: dict[str, object] = {"repair": tried.repair, "words": tried.words}
    about |= {"aligned": tried.aligned, "taught": tried.taught}
    return about | {name: plain(value) for name, value in figures.items()}

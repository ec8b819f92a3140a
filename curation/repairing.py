"""What is done about a weak slice: its recipe is tried cheaply, and what is proven is used, beside the loop.

The trial sees cached features of the training images and features of at most 400 augmented copies, so that it costs
seconds; no holdout row takes part.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt

from curation.config import SliceSettings
from curation.records import Augmentation, Estimate, Progress, Sample, Slice
from curation.runs import write_json, write_whole

if TYPE_CHECKING:
    import pandas as pd

    from augment.choose import Trial
    from augment.recipes import Recipe

#: The trial is made on the slice and at most this many others, drawn at random.
MOST_OTHERS = 6_000
#: Images of a blurred slice, and of the rest, that are measured in the size that copies are made in.
MOST_MEASURED = 50
#: Blurs, in pixels, that the rest is measured at.
BLURS = (1.0, 2.0, 3.0, 4.0, 6.0, 8.0)
#: Folds of the trial.
FOLDS = 5

Features = npt.NDArray[np.float32]
Pixels = npt.NDArray[np.uint8]


class Store(Protocol):
    """Features of samples, kept; and of images that are made on the way."""

    def features(self, samples: Sequence[Sample], progress: Progress | None = None) -> Features:
        """Features of shape (samples, dimensions), in the order of ``samples``."""
        ...

    def encode(self, images: Pixels) -> tuple[Features, object]:
        """Features (and activations) of images of shape (n, side, side, 3)."""
        ...


@dataclass(frozen=True)
class Repairer:
    """Tries a slice's recipe and says what is to be done; a slice in, the slice with its repair and copies out.

    ``pixels`` gives samples as arrays of shape (n, side, side, 3), ``group`` the numbers of images that must not be
    divided between folds, ``class_name`` what a class id is called. ``recipes`` are the user's own; with
    ``settings.trial`` a recipe that is not proven is used too.
    """

    store: Store
    pixels: Callable[[Sequence[Sample]], Pixels]
    group: Callable[[Sequence[Sample], Features], npt.NDArray[np.int64]]
    samples: Mapping[str, Sample]
    settings: SliceSettings
    recipes: Sequence[Recipe] = ()
    seed: int = 0
    class_name: Callable[[str], str] = str

    def __call__(
        self,
        weak: Slice,
        properties: pd.DataFrame,
        sample_ids: Sequence[str],
        labels: Sequence[str],
        folder: Path,
    ) -> tuple[Slice, Augmentation]:
        """Plan, try and judge; writes ``recipe.json``, ``trial.json`` and ``recipe.png`` into ``folder``.

        ``properties`` has a row for each of ``sample_ids``, whose class ids are ``labels``. The copies are none where
        only collecting more helps.
        """
        from augment.choose import again

        recipe, copies = self.plan(weak, properties, sample_ids, labels)
        tried = self._try(weak, copies, sample_ids, labels)
        write_json(folder / "recipe.json", recipe.to_dict())
        write_json(folder / "trial.json", {"slice": weak.name, "recipe": recipe.name, **told(tried)})
        self._preview(recipe, copies, folder)
        aimed = replace(weak, repair=tried.repair, proof=tried.words, recipe=None)
        if tried.repair == "recipe":
            return replace(aimed, recipe=recipe.name), copies
        if self.settings.trial:
            return replace(aimed, recipe=recipe.name, repair="unproven"), copies
        if tried.repair == "oversampling":
            return replace(aimed, recipe="oversampling"), again(weak.sample_ids, tried.factor)
        return aimed, replace(copies, sample_ids=())

    def plan(
        self, weak: Slice, properties: pd.DataFrame, sample_ids: Sequence[str], labels: Sequence[str]
    ) -> tuple[Recipe, Augmentation]:
        """The recipe that would be tried, and its copies."""
        from augment.choose import plan

        known, blurs = self._sharpness(weak, properties, sample_ids)
        return plan(weak, known, sample_ids, labels, self.settings, self.seed, self.recipes, blurs)

    def _sharpness(
        self, weak: Slice, properties: pd.DataFrame, sample_ids: Sequence[str]
    ) -> tuple[pd.DataFrame, Sequence[tuple[float, float]]]:
        """Properties with the sharpness, and sharpness by blur, of images in the size that copies are made in.

        How many pixels of blur take an image to the slice's sharpness depends on its size and on what it shows, so
        a slice that is blurred is measured anew: some images of it, and some of the rest blurred further and further.
        """
        from augment.recipes import USUAL_BLURS, Recipe, blurring
        from augment.transforms import build_transform
        from curation.properties import measure_pixels

        if weak.weakness != "blurred":
            return properties, USUAL_BLURS
        own = np.array([s in set(weak.sample_ids) for s in sample_ids], dtype=np.bool_)
        rng = np.random.default_rng(self.seed)
        inside, rest = (rng.permutation(np.flatnonzero(rows))[:MOST_MEASURED] for rows in (own, ~own))
        if not len(rest):
            return properties, USUAL_BLURS
        seen, usual = (self.pixels([self.samples[sample_ids[row]] for row in rows]) for rows in (inside, rest))

        def sharp(images: Pixels) -> npt.NDArray[np.float64]:
            return np.array([measure_pixels(image)["sharpness"] for image in images])

        levels = np.full(len(sample_ids), np.nan)
        levels[inside], levels[rest] = sharp(seen), sharp(usual)
        by_blur = [(0.0, float(np.median(levels[rest])))]
        for pixels in BLURS:
            step = build_transform(Recipe("blurred", "blurred", (blurring(pixels, pixels),), ""))
            left = float(np.median(sharp(np.stack([step(image, 0) for image in usual]))))
            by_blur.append((pixels, min(left, by_blur[-1][1])))
        return properties.assign(sharpness=levels), by_blur

    def _try(self, weak: Slice, copies: Augmentation, sample_ids: Sequence[str], labels: Sequence[str]) -> Trial:
        from augment.choose import trial

        own, copied = set(weak.sample_ids), set(copies.sample_ids)
        rows = self._drawn(sample_ids, own | copied)
        ids = [sample_ids[row] for row in rows]
        class_ids, columns = np.unique([labels[row] for row in rows], return_inverse=True)
        chosen = [self.samples[s] for s in ids]
        features = self.store.features(chosen)
        inside = np.array([s in own for s in ids], dtype=np.bool_)
        row_of = {s: row for row, s in enumerate(ids)}
        sources = np.array([row_of[s] for s in copies.sample_ids for _ in range(copies.copies)], dtype=np.int64)
        others = {
            f"other images labeled {self.class_name(str(c))}": (columns == n) & ~inside for n, c in enumerate(class_ids)
        }
        return trial(
            features, self._made(copies, features.shape[1]), sources, columns.astype(np.int64), inside,
            self._folds(chosen, features), seed=self.seed, others=others,
        )  # fmt: skip

    def _drawn(self, sample_ids: Sequence[str], needed: set[str]) -> npt.NDArray[np.int64]:
        """The rows of what is needed, and of some others."""
        must = np.array([s in needed for s in sample_ids], dtype=np.bool_)
        rest = np.random.default_rng(self.seed).permutation(np.flatnonzero(~must))[:MOST_OTHERS]
        return np.sort(np.concatenate([np.flatnonzero(must), rest])).astype(np.int64)

    def _made(self, copies: Augmentation, width: int) -> Features:
        """Features of the copies, those of a sample one after another."""
        if not copies.sample_ids or not copies.copies:
            return np.zeros((0, width), dtype=np.float32)
        pixels = self.pixels([self.samples[s] for s in copies.sample_ids])
        turns = range(copies.copies)
        made = [copies.transform(p, self.seed + 7919 * turn + n) for n, p in enumerate(pixels) for turn in turns]
        return self.store.encode(np.stack(made))[0]

    def _folds(self, samples: Sequence[Sample], features: Features) -> npt.NDArray[np.int64]:
        """The fold of each sample; what belongs together shares one."""
        groups = np.unique(self.group(samples, features), return_inverse=True)[1]
        drawn = np.random.default_rng(self.seed).permutation(int(groups.max(initial=0)) + 1) % FOLDS
        return np.asarray(drawn[groups], dtype=np.int64)

    def _preview(self, recipe: Recipe, copies: Augmentation, folder: Path) -> None:
        from augment.preview import contact_sheet
        from augment.transforms import build_transform
        from curation.images import read_image

        shown = [read_image(self.samples[s].file) for s in copies.sample_ids[:6]]
        if shown:
            write_whole(folder / "recipe.png", contact_sheet(shown, build_transform(recipe), seed=self.seed))


def told(tried: Trial) -> dict[str, object]:
    """A trial as plain values: gains as fractions with their 95 % intervals."""

    def plain(estimate: Estimate | None) -> object:
        return None if estimate is None else {"value": estimate.value, "ci": estimate.ci and list(estimate.ci)}

    figures = {"gain": tried.gain, "rest": tried.rest, "oversampling": tried.baseline, "balanced": tried.balanced}
    return {"repair": tried.repair, "words": tried.words} | {name: plain(value) for name, value in figures.items()}

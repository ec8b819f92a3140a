"""Features of samples and of augmented copies of them, as a recipe is tried on and a model is trained on.

A copy is looked at once while a project is open, however often it is asked for: the trial's are the training's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from curation.allocator import give_back_memory
from curation.copies import make_copies, plan_copies
from curation.features import resized
from curation.kept import Kept
from curation.records import Augmentation, Progress, Sample

if TYPE_CHECKING:
    from curation.features import FeatureStore, ViewFeatures

Features = npt.NDArray[np.float32]
Rows = npt.NDArray[np.floating[Any]]
Integers = npt.NDArray[np.int64]
Pixels = npt.NDArray[np.uint8]

#: Of so many recipes' copies the features are kept, of views in half precision; of a thousand they take some 60 MB.
RECIPES_KEPT = 3


class Source(Protocol):
    """Features and pixels of samples."""

    def features(self, samples: Sequence[Sample], progress: Progress | None = None) -> Features:
        """Features of shape (samples, dimensions), in the order of ``samples``."""
        ...

    def pixels(self, samples: Sequence[Sample]) -> Pixels:
        """Pixels of shape (samples, side, side, 3)."""
        ...


class CopiedFeatures:
    """Features by one network; ``widths`` are those of the parts that they are made of, where there are several."""

    def __init__(
        self, source: Source, encode: Callable[[Pixels], Rows], kept: Kept, widths: Sequence[int] = ()
    ) -> None:
        self._source = source
        self._encode = encode
        self._kept = kept
        self._widths = widths

    @property
    def widths(self) -> Sequence[int]:
        """Of how many features each part is that stands in a row; none where they are all of one."""
        return self._widths

    def features(self, samples: Sequence[Sample], progress: Progress | None = None) -> Features:
        """Features of shape (samples, dimensions), in the order of ``samples``."""
        return self._source.features(samples, progress)

    def copies(
        self,
        samples: Sequence[Sample],
        augmentations: Sequence[Augmentation],
        seed: int,
        progress: Progress | None = None,
    ) -> tuple[Features, Integers]:
        """Features (copies, dimensions) of every copy that is to be made of ``samples``, and the row of each's sample.

        By recipe, number and sample, as ``plan_copies`` has them.
        """
        found: list[Rows] = []
        planned = plan_copies(samples, augmentations)
        for augmentation in augmentations:
            own = [copy for copy in planned if copy[0] is augmentation]
            if augmentation.as_they_are:
                found += [self.features([samples[place] for _, _, place in own], progress)] if own else []
                continue
            known = self._known(augmentation, seed)
            missing = [copy for copy in own if (copy[1], samples[copy[2]].id) not in known]
            done = 0
            for images, rows in make_copies(self._source, samples, missing, seed):
                for row, (_, number, place) in zip(self._encode(images), missing[done:], strict=False):
                    known[number, samples[place].id] = row
                done += len(rows)
                if progress:
                    progress("computing augmented images", done, len(missing))
            found += [known[number, samples[place].id][None] for _, number, place in own]
            if missing:
                give_back_memory()
        features = np.concatenate(found, dtype=np.float32) if found else self.features(samples[:1], progress)[:0]
        return features, np.array([place for _, _, place in planned], dtype=np.int64)

    def _known(self, augmentation: Augmentation, seed: int) -> dict[tuple[int, str], Rows]:
        """What is known of a recipe's copies: by number and sample, features (dimensions,)."""
        transform = augmentation.transform
        made_from = (augmentation.name, repr(transform), seed, tuple(self._widths))

        def nothing_yet() -> tuple[object, dict[tuple[int, str], Rows]]:
            return transform, {}  # with what makes them: while it lives, nothing else goes by the same words

        return self._kept.of("copies", made_from, nothing_yet, places=RECIPES_KEPT)[1]


def copied_by_views(views: ViewFeatures, kept: Kept) -> CopiedFeatures:
    """By the views that labels are judged by; copies as they are: mirrored too they bring no more (docs/log.md)."""

    def encode(images: Pixels) -> Rows:
        return views.encode(partial(resized, images), mirror=False).astype(np.float16)

    return CopiedFeatures(views, encode, kept, views.widths)


def copied_by_store(store: FeatureStore, kept: Kept) -> CopiedFeatures:
    """By one look at each image."""

    class One:
        features = staticmethod(store.features)
        pixels = staticmethod(store.pixels.pixels)

    return CopiedFeatures(One(), lambda images: store.encode(images)[0], kept)

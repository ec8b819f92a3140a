"""Augmented copies of a slice's images, made by its recipe; in processes of their own where that saves time."""

from __future__ import annotations

import os
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from itertools import chain
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from curation.errors import TrainingError
from curation.records import Augmentation, Sample

Pixels = npt.NDArray[np.uint8]
Rows = npt.NDArray[np.int64]
Transform = Callable[[Pixels, int], Pixels]
#: A recipe, which copy of the sample it makes, and the sample's row.
Copy = tuple[Augmentation, int, int]

#: What all altered copies against one weakness count, at most, beside all images where a head is fitted. With as many
#: copies as images, each counting a quarter, the slice gains as much and the others lose next to nothing (docs/log.md).
COPIES_SHARE = 0.25
#: Copies that are made, handed over and held at once.
TOGETHER = 64
#: What it takes until worker processes work, most of it importing albumentations; measured at 2 to 4 seconds.
START_SECONDS = 4.0
#: A worker that has not made ``TOGETHER`` copies in this time never will.
PATIENCE_SECONDS = 600.0


class PixelSource(Protocol):
    """Gives the pixels of samples."""

    def pixels(self, samples: Sequence[Sample]) -> Pixels:
        """Pixels of shape (samples, side, side, 3)."""
        ...


def plan_copies(samples: Sequence[Sample], augmentations: Sequence[Augmentation]) -> list[Copy]:
    """Every copy that is to be made, by recipe, number and sample; ids not among ``samples`` are passed over."""
    row_of = {s.id: row for row, s in enumerate(samples)}
    return [
        (a, number, row_of[s]) for a in augmentations for number in range(a.copies) for s in a.sample_ids if s in row_of
    ]


def copy_weight(images: int, copies: int) -> float:
    """What each of so many altered copies counts beside so many images: all together ``COPIES_SHARE`` of these at most.

    >>> copy_weight(1000, 1000), copy_weight(1000, 100), copy_weight(1000, 0)
    (0.25, 1.0, 1.0)
    """
    return min(1.0, COPIES_SHARE * images / max(copies, 1))


def copy_weights(samples: Sequence[Sample], augmentations: Sequence[Augmentation]) -> npt.NDArray[np.float64]:
    """What each planned copy counts, (copies,), in the order of ``plan_copies``; one of an image as it is counts 1."""
    found = [np.ones(0)]
    for augmentation in augmentations:
        count = len(plan_copies(samples, [augmentation]))
        each = 1.0 if augmentation.as_they_are else copy_weight(len(samples), count)
        found.append(np.full(count, each))
    return np.concatenate(found)


def weights_with_copies(samples: Sequence[Sample], augmentations: Sequence[Augmentation]) -> npt.NDArray[np.float64]:
    """What each image counts, which is 1, then what each planned copy does; (samples + copies,)."""
    return np.concatenate([np.ones(len(samples)), copy_weights(samples, augmentations)])


def taught_network(augmentations: Sequence[Augmentation]) -> Path | None:
    """The file of the network that a recipe taught; ``None`` where none did."""
    return next((a.network for a in augmentations if a.network), None)


def balanced(weights: npt.NDArray[np.float64], labels: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Weights of rows, (rows,), scaled so that those of each class are the same together, and all sum to as much."""
    counted = np.bincount(labels, weights)
    return np.asarray(weights * (counted.sum() / np.count_nonzero(counted) / counted[labels]))


def aligned_copies(samples: Sequence[Sample], augmentations: Sequence[Augmentation]) -> npt.NDArray[np.bool_]:
    """Of each planned copy whether a head is to look past what it changes, (copies,), as ``plan_copies`` has them."""
    return np.array([a.aligned for a, _, _ in plan_copies(samples, augmentations)], dtype=np.bool_)


def make_copies(
    source: PixelSource, samples: Sequence[Sample], planned: Sequence[Copy], seed: int, *, workers: int | None = None
) -> Iterator[tuple[Pixels, Rows]]:
    """The planned copies in their order, at most ``TOGETHER`` at a time: images and the rows that they were made from.

    The same seed gives the same copies of a sample, whichever others are copied and however many processes make them:
    ``workers`` (``None`` for one a core, 0 for this process alone) are started where the time that the first copies
    took says that they pay. Raises TrainingError where a worker dies or never answers, and whatever a recipe raises.
    """
    parts = [planned[start : start + TOGETHER] for start in range(0, len(planned), TOGETHER)]

    def given(part: Sequence[Copy]) -> tuple[list[Transform], Pixels, list[int]]:
        images = source.pixels([samples[row] for _, _, row in part])
        seeds = [seed + 7919 * number + zlib.crc32(samples[row].id.encode()) for _, number, row in part]
        return [a.transform for a, _, _ in part], np.array(images), seeds

    if not parts:
        return
    began = time.perf_counter()
    first = transformed(*given(parts[0]))
    each = time.perf_counter() - began
    count = (os.cpu_count() or 1) if workers is None else workers
    work = (given(part) for part in parts[1:])
    alone = not workers_pay(each, len(parts) - 1, count)
    made = (transformed(*job) for job in work) if alone else _in_workers(work, count)
    for part, images in zip(parts, chain([first], made), strict=True):
        yield images, np.array([row for _, _, row in part], dtype=np.int64)


def workers_pay(seconds: float, parts: int, workers: int) -> bool:
    """Whether ``workers`` processes save more than they cost to start, where ``parts`` take ``seconds`` each.

    >>> workers_pay(0.2, 10, 8), workers_pay(0.2, 100, 8), workers_pay(0.2, 100, 1)
    (False, True, False)
    """
    return workers > 1 and seconds * parts * (1 - 1 / workers) > START_SECONDS


def transformed(transforms: Sequence[Transform], images: Pixels, seeds: Sequence[int]) -> Pixels:
    """Each image changed by its transform with its seed, (images, side, side, 3)."""
    return np.stack([change(image, seed) for change, image, seed in zip(transforms, images, seeds, strict=True)])


def _in_workers(work: Iterator[tuple[list[Transform], Pixels, list[int]]], workers: int) -> Iterator[Pixels]:
    """The same in processes of their own (joblib's, which do not run the caller's script again), in order."""
    import joblib  # type: ignore[import-untyped]  # it has no types

    parallel = joblib.Parallel(n_jobs=workers, return_as="generator", timeout=PATIENCE_SECONDS, max_nbytes=None)
    try:
        yield from parallel(joblib.delayed(transformed)(*job) for job in work)
    except (BrokenProcessPool, TimeoutError) as error:
        raise TrainingError(
            "a process that makes augmented copies of a slice's images ended or hung, mostly for want of memory; run "
            "again, with a lower slices.copies in curation.toml or more memory"
        ) from error

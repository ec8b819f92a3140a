"""Which images are alike: nearest neighbours by cosine, near-duplicates, and the groups that these make."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Features = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int64]


def unit_directions(features: Features) -> Features:
    """Features without their mean, at length 1, shape (samples, dimensions): their products are cosines."""
    centred = features - features.mean(axis=0) if len(features) else features
    return np.asarray(centred / np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), 1e-6), dtype=np.float32)


def nearest_neighbours(features: Features, count: int, *, block: int = 1024) -> tuple[Integers, Floats]:
    """The most similar other samples, nearest first: their rows and cosines, both (samples, min(count, samples - 1)).

    Exact, computed a block of rows at a time; equal cosines in the order of rows.
    """
    unit = unit_directions(features)
    count = min(count, max(len(unit) - 1, 0))
    rows = np.zeros((len(unit), count), dtype=np.int64)
    cosines = np.zeros((len(unit), count))
    for start in range(0, len(unit) if count else 0, block):
        similar = unit[start : start + block] @ unit.T
        here = np.arange(len(similar))
        similar[here, start + here] = -np.inf
        top = np.sort(np.argpartition(-similar, count - 1, axis=1)[:, :count], axis=1)
        found = np.take_along_axis(similar, top, axis=1)
        order = np.argsort(-found, axis=1, kind="stable")
        rows[start : start + block] = np.take_along_axis(top, order, axis=1)
        cosines[start : start + block] = np.take_along_axis(found, order, axis=1)
    return rows, cosines


def near_duplicate_pairs(features: Features, threshold: float | None = None) -> list[tuple[int, int, float]]:
    """Pairs of rows (smaller first) that look like one picture, with the cosine of their features; by row.

    ``threshold`` is the least cosine. ``None`` takes the set's own measure: two images are near-duplicates where they
    differ by less than a tenth of what images usually differ from their nearest. Thumbnails that were stored as JPEG
    again are found by it, while the solar cells of one panel, which differ by a cosine of 0.99, stay apart.
    """
    unit = unit_directions(features)
    alone = np.linalg.norm(unit, axis=1) < 0.5  # equal to the mean: it has no direction
    least = near_duplicate_threshold(nearest_neighbours(features, 1)[1]) if threshold is None else threshold
    pairs: list[tuple[int, int, float]] = []
    for start in range(0, len(unit), 1024):
        similar = unit[start : start + 1024] @ unit[start:].T
        left, right = np.nonzero(np.triu(similar >= least, k=1))
        pairs += zip((left + start).tolist(), (right + start).tolist(), similar[left, right].tolist(), strict=True)
    return [pair for pair in pairs if not alone[pair[0]]]


def near_duplicate_threshold(cosines: Floats) -> float:
    """The least cosine of near-duplicates, from the cosines of all samples to their nearest ones.

    >>> round(near_duplicate_threshold(np.array([[0.8], [0.9], [0.7], [1.0]])), 4)
    0.985
    """
    usual = float(np.median(1 - cosines)) if cosines.size else 0.0
    return 1 - min(max(0.1 * usual, 0.0005), 0.05)


def group_near_duplicates(features: Features, threshold: float | None = None) -> Integers:
    """Group numbers from 0, shape (samples,): near-duplicates, and near-duplicates of those, share one.

    >>> group_near_duplicates(np.array([[1, 0], [1, 0.001], [-1, 1], [0, -1]], dtype=np.float32)).tolist()
    [0, 0, 1, 2]
    """
    return join_groups(len(features), [pair[:2] for pair in near_duplicate_pairs(features, threshold)])


def join_groups(count: int, pairs: Sequence[tuple[int, int]]) -> Integers:
    """Group numbers from 0, shape (count,), of rows that pairs connect, over any number of steps.

    >>> join_groups(5, [(0, 3), (3, 4)]).tolist()
    [0, 1, 2, 0, 0]
    """
    group = list(range(count))

    def root(row: int) -> int:
        while group[row] != row:
            group[row] = group[group[row]]
            row = group[row]
        return row

    for left, right in pairs:
        first, second = sorted((root(left), root(right)))
        group[second] = first
    return np.unique([root(row) for row in range(count)], return_inverse=True)[1].astype(np.int64).reshape(count)

"""Which images are alike: nearest neighbours by cosine, near-duplicates, and the groups that these make.

The one door to faiss, which searches where comparing every sample with every other would take too long.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Features = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int64]
#: Two rows, the smaller first, and the cosine of their features.
Pair = tuple[int, int, float]

#: With more samples than this, neighbours are searched approximately: the cost of an exact search grows as the square.
EXACT = 20_000
#: Of a crowd of images that look alike each keeps the pairs with so many likest ones; so many pairs, or twice those
#: kept so far, are gathered before the others are let go.
MOST_TWINS, LISTED = 50, 500_000
#: Dimensions that the approximate search looks at, and how many near-duplicates of a row it can find.
_REDUCED, _TWINS = 128, 16
#: Cells that it looks into: for near-duplicates, which share a cell all but always, and for neighbours.
_CELLS_FOR_TWINS, _CELLS = 8, 32
#: Samples that the approximate search is trained on, for each of its cells.
_TRAINED = 40


def unit_directions(features: Features) -> Features:
    """Features without their mean, at length 1, shape (samples, dimensions): their products are cosines."""
    return _at_length_one(features - features.mean(axis=0) if len(features) else features)


def _at_length_one(centred: Features) -> Features:
    return np.asarray(centred / np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), 1e-6), dtype=np.float32)


def nearest_neighbours(features: Features, count: int, *, block: int = 1024) -> tuple[Integers, Floats]:
    """The most similar other samples, nearest first: their rows and cosines, both (samples, min(count, samples - 1)).

    Exact up to ``EXACT`` samples, computed a block of rows at a time; equal cosines in the order of rows. Beyond, those
    of an approximate search (``approximate_neighbours``), whose cosines are exact.
    """
    unit = unit_directions(features)
    count = min(count, max(len(unit) - 1, 0))
    if len(unit) > EXACT:
        return _exactly(unit, approximate_neighbours(unit, 3 * count, _CELLS)[0], count)
    if count == 1:
        return _nearest(unit, block)
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


def _nearest(unit: Features, block: int) -> tuple[Integers, Floats]:
    """The nearest other sample of each alone: every pair is looked at once, and nothing is sorted."""
    rows = np.zeros(len(unit), dtype=np.int64)
    cosines = np.full(len(unit), -np.inf)

    def see(start: int, similar: Features, others: int) -> None:
        best = similar.argmax(axis=1)
        found = similar[np.arange(len(similar)), best]
        nearer = np.flatnonzero(found > cosines[start : start + len(similar)])
        rows[start + nearer], cosines[start + nearer] = others + best[nearer], found[nearer]

    for start in range(0, len(unit), block):
        for others in range(start, len(unit), block):
            similar = unit[start : start + block] @ unit[others : others + block].T
            if others == start:
                np.fill_diagonal(similar, -np.inf)
            else:
                see(others, similar.T, start)
            see(start, similar, others)
    return rows[:, None], cosines[:, None]


def near_duplicate_pairs(
    features: Features, threshold: float | None = None, of: npt.NDArray[np.generic] | None = None
) -> list[Pair]:
    """Pairs of rows (smaller first) that look like one picture, with the cosine of their features; by row.

    ``threshold`` is the least cosine. ``None`` takes the set's own measure: two images are near-duplicates where they
    differ by less than a tenth of what images usually differ from their nearest. Thumbnails that were stored as JPEG
    again are found by it, while the solar cells of one panel, which differ by a cosine of 0.99, stay apart.

    Where a crowd looks alike, the pairs grow as its square: an image's are then those with its ``MOST_TWINS`` likest in
    each part, as ``of`` (samples,) names them (splits), and as many more as the groups need that all pairs make.
    """
    unit = unit_directions(features)
    alone = np.linalg.norm(unit, axis=1) < 0.5  # equal to the mean: it has no direction
    if len(unit) > EXACT:
        pairs = _approximate_pairs(unit, threshold)
    else:
        nearest = nearest_neighbours(features, 1)[1]
        least = near_duplicate_threshold(nearest) if threshold is None else threshold
        near = np.flatnonzero((nearest >= least - 1e-5).any(axis=1))  # sums in another order differ by rounding
        parts = np.zeros(len(near), dtype=np.int64) if of is None else np.unique(of[near], return_inverse=True)[1]
        left, right, cosines = _alike(unit[near], least, parts)
        pairs = list(zip(near[left].tolist(), near[right].tolist(), cosines.tolist(), strict=True))
    return [pair for pair in pairs if not alone[pair[0]]]


def _alike(unit: Features, least: float, parts: Integers) -> tuple[Integers, Integers, Features]:
    """Rows (smaller first) and cosines of pairs that are alike, of a crowd the likest of each row and part."""
    left, right = np.zeros((2, 0), dtype=np.int64)
    cosines: Features = np.zeros(0, dtype=np.float32)
    most = LISTED
    for start in range(0, len(unit), 1024):
        similar = unit[start : start + 1024] @ unit[start:].T
        alike = np.triu(similar >= least, k=1)
        for first in range(0, len(alike), 64):  # in a crowd all are alike: not too many at a time
            row, other = np.nonzero(alike[first : first + 64])
            left, right = np.append(left, start + first + row), np.append(right, start + other)
            cosines = np.append(cosines, similar[first + row, other])
            if len(left) > most:
                left, right, cosines = _thinned(left, right, cosines, parts)
                most = max(LISTED, 2 * len(left))
    return _thinned(left, right, cosines, parts)


def _thinned(
    left: Integers, right: Integers, cosines: Features, parts: Integers
) -> tuple[Integers, Integers, Features]:
    """The pairs with the likest twins of each row in each part, and the likest that join what all pairs join."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import minimum_spanning_tree

    row, other = np.concatenate([left, right]), np.concatenate([right, left])
    whose = row * (parts.max(initial=0) + 1) + parts[other]
    order = np.lexsort((-np.tile(cosines, 2), whose))
    begin = np.flatnonzero(np.diff(whose[order], prepend=-1))
    place = np.arange(len(order)) - np.repeat(begin, np.diff(begin, append=len(order)))
    if (place < MOST_TWINS).all():
        return left, right, cosines
    kept = np.zeros(len(left), dtype=np.bool_)
    kept[order[place < MOST_TWINS] % len(left)] = True
    # A distance of nothing would be no edge.
    tree = minimum_spanning_tree(coo_matrix((2 - cosines, (left, right)), shape=(len(parts), len(parts)))).tocoo()
    kept |= np.isin(left * len(parts) + right, tree.row.astype(np.int64) * len(parts) + tree.col)
    return left[kept], right[kept], cosines[kept]


def approximate_neighbours(unit: Features, count: int, looked_into: int) -> tuple[Integers, Floats]:
    """Rows of the probably nearest other samples and their squared distances in fewer dimensions, (samples, count).

    ``unit`` are directions of length 1, shape (samples, dimensions). faiss: principal components, then an inverted file
    (Jegou, Douze and Schmid, 2011) of which so many cells are ``looked_into``; -1 where too few were found. A distance
    in fewer dimensions is never larger than the true one.
    """
    import faiss

    cells = max(1, 2 * int(np.sqrt(len(unit))))
    reduced = min(_REDUCED, unit.shape[1])
    index = faiss.index_factory(unit.shape[1], f"PCA{reduced},IVF{cells},Flat")
    rng = np.random.default_rng(0)
    index.train(unit[np.sort(rng.permutation(len(unit))[: _TRAINED * cells])])
    faiss.extract_index_ivf(index).nprobe = looked_into
    for start in range(0, len(unit), 65_536):
        index.add(unit[start : start + 65_536])
    rows = np.full((len(unit), count), -1, dtype=np.int64)
    distances = np.full((len(unit), count), np.inf)
    for start in range(0, len(unit), 65_536):
        far, found = index.search(unit[start : start + 65_536], count + 1)
        other = found != start + np.arange(len(found))[:, None]
        other &= np.cumsum(other, axis=1) <= count  # where a row has not found itself, one too many
        place = np.cumsum(other, axis=1)[other] - 1
        rows[start + np.nonzero(other)[0], place] = found[other]
        distances[start + np.nonzero(other)[0], place] = far[other]
    return rows, np.where(rows < 0, np.inf, distances)


def _exactly(unit: Features, found: Integers, count: int) -> tuple[Integers, Floats]:
    """The nearest of the rows found, with their cosines; a row that is missing counts as itself, at cosine -1."""
    rows = np.zeros((len(unit), count), dtype=np.int64)
    cosines = np.zeros((len(unit), count))
    for start in range(0, len(unit), 4096):
        near = found[start : start + 4096]
        similar = np.einsum("rd,rcd->rc", unit[start : start + 4096], unit[near])
        similar[near < 0] = -1
        order = np.argsort(-similar, axis=1, kind="stable")[:, :count]
        own = start + np.arange(len(near))[:, None]
        rows[start : start + 4096] = np.take_along_axis(np.where(near < 0, own, near), order, axis=1)
        cosines[start : start + 4096] = np.take_along_axis(similar, order, axis=1)
    return rows, cosines


def _approximate_pairs(unit: Features, threshold: float | None) -> list[Pair]:
    found, distances = approximate_neighbours(unit, _TWINS, _CELLS_FOR_TWINS)
    least = near_duplicate_threshold(_exactly(unit, found[:, :2], 1)[1]) if threshold is None else threshold
    left, place = np.nonzero(distances <= 2 * (1 - least) + 1e-4)
    both = np.unique(np.sort(np.stack([left, found[left, place]], axis=1), axis=1), axis=0)
    pairs: list[Pair] = []
    for start in range(0, len(both), 65_536):
        some = both[start : start + 65_536]
        cosines = np.einsum("pd,pd->p", unit[some[:, 0]], unit[some[:, 1]])
        alike = cosines >= least
        pairs += zip(some[alike, 0].tolist(), some[alike, 1].tolist(), cosines[alike].tolist(), strict=True)
    return pairs


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


def nearness(features: Features, centres: Integers, others: Features | None = None) -> Features:
    """How near images are to some others, by cosine: which share of all is farther, shape (images, centres), in [0, 1).

    ``features`` are those of all, shape (samples, dimensions), ``centres`` are rows of them; ``others`` are features of
    further images that are placed among them, in place of the samples themselves.

    >>> nearness(np.array([[1, 0], [1, 0.5], [0, 1], [-2, -1]], dtype=np.float32), np.array([0])).ravel().tolist()
    [0.75, 0.5, 0.25, 0.0]
    """
    unit = unit_directions(features)
    asked = unit if others is None else _at_length_one(others - features.mean(axis=0))
    similar, between = unit @ unit[centres].T, asked @ unit[centres].T
    found = np.empty(between.shape, dtype=np.float32)
    for place in range(len(centres)):
        found[:, place] = np.searchsorted(np.sort(similar[:, place]), between[:, place]) / max(len(unit), 1)
    return found

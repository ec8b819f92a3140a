"""Out-of-sample class probabilities for more samples than fit into memory: four passes over features on disk.

Kernel ridge regression on fixed landmarks, every group left out exactly, in two rounds as in ``scoring.py``. Features
are read a block at a time, so that time grows linearly with samples; of memory the probabilities grow, and what a group
takes that is larger than a block: its features as they are stored, and a row of landmarks for each.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from curation.engine import Engine, LocalEngine
from curation.errors import RecordError
from curation.records import Progress, Rows
from curation.regression import (
    NOISES,
    apply_temperature,
    cholesky,
    kernel_width,
    least,
    leave_out_ridge,
    probed,
    squared_distances,
    temperature,
)
from curation.scaling import LENGTH, part_weights
from curation.scoring import FIRST_ROUND, Features, Floats, Integers, OutOfSample, check_shapes, corrected_labels

#: Samples that the kernel rests on; a thousand in place of two costs 0.003 of average precision (docs/log.md).
LANDMARKS = 1000
#: With more samples than this, iterations judge labels by this way: on views, 3.4 GB are held in memory up to it.
FROM = 30_000
#: Rows read at once.
BLOCK = 8192


def score_streaming(
    features: Rows,
    labels: Integers,
    n_classes: int,
    *,
    groups: Integers | None = None,
    seed: int,
    settled: npt.NDArray[np.bool_] | None = None,
    widths: Sequence[int] = (),
    progress: Progress | None = None,
    engine: Engine | None = None,
) -> OutOfSample:
    """Class probabilities of every sample by a model that has not seen it, nor its group.

    ``features`` has shape (samples, dimensions) in any floating type, for instance a memory-mapped file in half
    precision; ``labels`` (samples,), columns below ``n_classes``; ``groups`` (samples,), by default each sample alone
    (fastest where numbered in the order of samples); ``settled`` (samples,), labels that are never corrected;
    ``widths`` those of the parts that features are made of, where there are several. Blocks of features are read here
    and computed by the ``engine``, by default in this process. Raises RecordError and InputError as
    ``score_out_of_sample`` does, for features that are not finite numbers when they are read.
    """
    began = time.perf_counter()
    alone = np.arange(len(labels), dtype=np.int64)
    check_shapes(features, labels, n_classes, alone if groups is None else groups)
    groups = alone if groups is None else np.unique(groups, return_inverse=True)[1].astype(np.int64)
    weights = part_weights(widths, features.shape[1])
    kernel = _StreamedKernel(features, labels, n_classes, groups, weights, seed, progress, engine or LocalEngine())
    noise = kernel.choose()
    first = kernel.probabilities(labels, 1)
    corrected = corrected_labels(first, labels, settled)
    kernel.relearn(corrected)
    second = kernel.probabilities(corrected, 2)
    second *= 1 - FIRST_ROUND
    first *= FIRST_ROUND
    second += first
    settings = {"noise": noise, "corrected": float((corrected != labels).sum()), "landmarks": float(kernel.size)}
    return OutOfSample(
        second,
        np.full(len(labels), -1, dtype=np.int64),
        "leave-one-out kernel regression on landmarks, on labels corrected by a first round",
        settings,
        time.perf_counter() - began,
    )


@dataclass(frozen=True, eq=False)
class _Space:
    """How features become rows R, shape (rows, landmarks), with the kernel R R'."""

    mean: Features
    deviation: Features
    landmarks: Features
    width: float
    root: Features

    def rooted(self, inputs: Features) -> Features:
        """R of features (rows, dimensions)."""
        from scipy.linalg import solve_triangular

        distances = squared_distances(scaled(inputs, self.mean, self.deviation), self.landmarks)
        distances /= -self.width
        kernel = np.exp(distances, out=distances)
        return np.ascontiguousarray(
            solve_triangular(self.root, kernel.T, lower=True, check_finite=False, overwrite_b=True).T
        )


@dataclass(frozen=True, eq=False)
class _Solved:
    """The regression at one noise: the factor of its Gram matrix, and what the landmarks have learned."""

    space: _Space
    factor: Features
    right: Floats
    temperature: float

    def values(self, rooted: Features, targets: Features, groups: Integers) -> Floats:
        """What is predicted for rows R, (rows, classes), each group left out."""
        from scipy.linalg import solve_triangular

        half = solve_triangular(self.factor, rooted.T, lower=True, check_finite=False).T
        right = solve_triangular(self.factor, self.right, lower=True, check_finite=False).astype(np.float32)
        half = np.ascontiguousarray(half)
        return leave_out_ridge(half, half @ right, targets, groups)


#: What is computed of a block: its features as they are kept, its targets (rows, classes), its groups (rows,).
_Block = tuple[npt.NDArray[Any], Features, Integers]


def scaled(inputs: Features, mean: Features, deviation: Features) -> Features:
    """Features (rows, dimensions) standardised and brought to one length; a new array."""
    inputs = (inputs - mean) / deviation
    inputs *= LENGTH / np.maximum(np.linalg.norm(inputs, axis=1, keepdims=True), 1e-6)
    return inputs


def _sums(space: _Space, block: _Block, _: Progress | None = None) -> tuple[Floats, Floats]:
    """What a block adds to the Gram matrix, and to what is learned of its targets."""
    rooted = _rooted(space, block[0])
    return (rooted.T @ rooted).astype(np.float64), (rooted.T @ block[1]).astype(np.float64)


def _judged(solved: _Solved, block: _Block, _: Progress | None = None) -> Floats:
    """Probabilities (rows, classes) of a block, left out."""
    values = solved.values(_rooted(solved.space, block[0]), block[1], block[2])
    return apply_temperature(values, solved.temperature)


def _rooted(space: _Space, stored: npt.NDArray[Any]) -> Features:
    """R of features as they are stored; in single precision there are never more of them than a block has."""
    return np.concatenate([space.rooted(np.asarray(stored[part], dtype=np.float32)) for part in _parts(len(stored))])


def _parts(count: int) -> list[slice]:
    """So many rows, as many at a time as are read at once."""
    return [slice(start, start + BLOCK) for start in range(0, count, BLOCK)]


class _StreamedKernel:
    def __init__(
        self,
        features: Rows,
        labels: Integers,
        n_classes: int,
        groups: Integers,
        weights: Features,
        seed: int,
        progress: Progress | None,
        engine: Engine,
    ) -> None:
        self._engine = engine
        self._features = features
        self._labels = labels
        self._n_classes = n_classes
        self._groups = groups
        self._progress = progress
        self._done = 0
        self._order = np.argsort(groups, kind="stable")
        rng = np.random.default_rng(seed)
        mean, deviation = self._moments()
        deviation = deviation / weights  # a dimension that counts less is one that varies more
        chosen = np.sort(rng.permutation(len(labels))[:LANDMARKS])
        landmarks = scaled(self._read(chosen), mean, deviation)
        self.size = len(landmarks)
        self._probe = np.flatnonzero(probed(groups, seed))
        near = self._of_probe(lambda inputs: squared_distances(scaled(inputs, mean, deviation), landmarks))
        width = kernel_width(near, landmarks)
        own = np.exp(-squared_distances(landmarks, landmarks) / width).astype(np.float64)
        root = cholesky(own).astype(np.float32)
        self._space = _Space(mean, deviation, landmarks, width, root)
        self._gram = np.zeros((self.size, self.size))
        self._right = np.zeros((self.size, n_classes))
        blocks = list(self._blocks())
        for rows, (gram, right) in zip(
            blocks, engine.map(_sums, self._space, (self._block(rows, labels) for rows in blocks)), strict=True
        ):
            self._gram += gram
            self._right += right
            self._tell("reading features", rows)
        self._solved = self._at(NOISES[len(NOISES) // 2], 1.0)

    def choose(self) -> float:
        """Choose the noise of least squared error on probed samples left out, then the temperature; the noise."""
        rooted, targets = self._of_probe(self._space.rooted), self._targets(self._labels[self._probe])
        groups = self._groups[self._probe]

        def loss(noise: float) -> float:
            values = self._at(noise, 1.0).values(rooted, targets, groups)
            return float(((values - targets) ** 2).mean())

        noise = least(NOISES, loss)
        values = self._at(noise, 1.0).values(rooted, targets, groups)
        self._solved = self._at(noise, temperature(values, self._labels[self._probe]))
        return noise

    def relearn(self, labels: Integers) -> None:
        """Learn from other labels: only rows whose label changed are read."""
        changed = np.flatnonzero(labels != self._labels)
        for rows in (changed[part] for part in _parts(len(changed))):
            difference = self._targets(labels[rows]) - self._targets(self._labels[rows])
            self._right += self._space.rooted(self._read(rows)).T @ difference
        self._solved = replace(self._solved, right=self._right)

    def probabilities(self, labels: Integers, number: int) -> Floats:
        """Probabilities (samples, classes) of samples left out, learned from these labels."""
        found = np.empty((len(labels), self._n_classes))
        blocks = list(self._blocks())
        tasks = (self._block(rows, labels) for rows in blocks)
        for rows, judged in zip(blocks, self._engine.map(_judged, self._solved, tasks), strict=True):
            found[rows] = judged
            self._tell(f"judging labels, round {number} of 2", rows)
        return found

    def _of_probe(self, work: Callable[[Features], Features]) -> Features:
        """What is worked out of the features of probed rows: where groups are few, these are all the rows there are."""
        return np.concatenate([work(self._read(self._probe[part])) for part in _parts(len(self._probe))])

    def _at(self, noise: float, by: float) -> _Solved:
        factor = cholesky(self._gram, noise).astype(np.float32)
        return _Solved(self._space, factor, self._right, by)

    def _block(self, rows: Integers, labels: Integers) -> _Block:
        return self._stored(rows), self._targets(labels[rows]), self._groups[rows]

    def _stored(self, rows: Integers) -> npt.NDArray[Any]:
        in_line = len(rows) and rows[-1] - rows[0] + 1 == len(rows) and (np.diff(rows) == 1).all()
        return self._features[rows[0] : rows[-1] + 1] if in_line else self._features[rows]

    def _read(self, rows: Integers) -> Features:
        inputs = np.asarray(self._stored(rows), dtype=np.float32)
        bad = np.flatnonzero(~np.isfinite(inputs.sum(axis=1)))
        if len(bad):
            raise RecordError(
                f"features must be finite numbers, but those of row {rows[bad[0]]} are not; "
                "delete the cached features and compute them again"
            )
        return inputs

    def _moments(self) -> tuple[Features, Features]:
        """Mean and standard deviation of every dimension; 1 where it does not vary."""
        total = np.zeros(self._features.shape[1])
        squares = np.zeros(self._features.shape[1])
        for rows in self._blocks():
            inputs = self._read(rows)
            self._tell("measuring features", rows)
            total += inputs.sum(axis=0, dtype=np.float64)
            squares += np.einsum("sd,sd->d", inputs, inputs, dtype=np.float64)
        mean = total / len(self._labels)
        deviation = np.sqrt(np.maximum(squares / len(self._labels) - mean**2, 0))
        return mean.astype(np.float32), np.where(deviation > 1e-8, deviation, 1).astype(np.float32)

    def _targets(self, labels: Integers) -> Features:
        targets = np.full((len(labels), self._n_classes), -1 / self._n_classes, dtype=np.float32)
        targets[np.arange(len(labels)), labels] += 1
        return targets

    def _blocks(self) -> Iterator[Integers]:
        """Rows of whole groups, about ``BLOCK`` at a time."""
        ordered = self._groups[self._order]
        start = 0
        while start < len(ordered):
            end = min(start + BLOCK, len(ordered))
            if end < len(ordered):  # to the end of the group that the block ends in
                end = int(np.searchsorted(ordered, ordered[end - 1], side="right"))
            yield self._order[start:end]
            start = end

    def _tell(self, doing: str, rows: Integers) -> None:
        """Tell that a block is done, the next of this pass."""
        if self._progress:
            self._done = (0 if self._done == len(self._labels) else self._done) + len(rows)
            self._progress(doing, self._done, len(self._labels))

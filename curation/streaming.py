"""Out-of-sample class probabilities for more samples than fit into memory: four passes over features on disk.

Kernel ridge regression on fixed landmarks, every group left out exactly, in two rounds as in ``scoring.py``. Features
are read a block at a time, so that time grows linearly with samples; of memory only the probabilities grow.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from curation.errors import RecordError
from curation.records import Progress
from curation.scoring import (
    FIRST_ROUND,
    LENGTH,
    NOISES,
    Features,
    Floats,
    Integers,
    OutOfSample,
    apply_temperature,
    check_shapes,
    corrected_labels,
    least,
    leave_out_ridge,
    probed,
    squared_distances,
    temperature,
)

#: Samples that the kernel rests on; a thousand in place of two costs 0.003 of average precision (docs/log.md).
LANDMARKS = 1000
#: With more samples than this, iterations judge labels by this way.
FROM = 50_000
#: Rows read at once.
BLOCK = 8192

Rows = npt.NDArray[Any]


def score_streaming(
    features: Rows,
    labels: Integers,
    n_classes: int,
    *,
    groups: Integers | None = None,
    seed: int,
    progress: Progress | None = None,
) -> OutOfSample:
    """Class probabilities of every sample by a model that has not seen it, nor its group.

    ``features`` has shape (samples, dimensions) in any floating type, for instance a memory-mapped file in half
    precision; ``labels`` (samples,), columns below ``n_classes``; ``groups`` (samples,), by default each sample alone
    (fastest where numbered in the order of samples). Raises RecordError and InputError as ``score_out_of_sample`` does,
    for features that are not finite numbers when they are read.
    """
    began = time.perf_counter()
    alone = np.arange(len(labels), dtype=np.int64)
    check_shapes(features, labels, n_classes, alone if groups is None else groups)
    groups = alone if groups is None else np.unique(groups, return_inverse=True)[1].astype(np.int64)
    kernel = _StreamedKernel(features, labels, n_classes, groups, seed, progress)
    noise = kernel.choose()
    first = kernel.probabilities(labels, 1)
    corrected = corrected_labels(first, labels)
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


class _StreamedKernel:
    def __init__(
        self,
        features: Rows,
        labels: Integers,
        n_classes: int,
        groups: Integers,
        seed: int,
        progress: Progress | None,
    ) -> None:
        self._features = features
        self._labels = labels
        self._n_classes = n_classes
        self._groups = groups
        self._progress = progress
        self._order = np.argsort(groups, kind="stable")
        rng = np.random.default_rng(seed)
        self._mean, self._deviation = self._moments()
        self._landmarks = self._scaled(np.sort(rng.permutation(len(labels))[:LANDMARKS]))
        self.size = len(self._landmarks)
        self._probe = np.flatnonzero(probed(groups, seed))
        near = squared_distances(self._scaled(self._probe), self._landmarks)
        self._width = max(float(np.median(near)), 1e-6)
        own = np.exp(-squared_distances(self._landmarks, self._landmarks) / self._width).astype(np.float64)
        self._root = np.linalg.cholesky(own + 1e-4 * np.eye(self.size)).astype(np.float32)
        self._gram = np.zeros((self.size, self.size))
        self._right = np.zeros((self.size, n_classes))
        for rows in self._blocks("reading features"):
            rooted = self._rooted(rows)
            self._gram += rooted.T @ rooted
            self._right += rooted.T @ self._targets(labels[rows])
        self._temperature = 1.0

    def choose(self) -> float:
        """Choose the noise of least squared error on probed samples left out, then the temperature; the noise."""
        rooted, targets = self._rooted(self._probe), self._targets(self._labels[self._probe])
        groups = self._groups[self._probe]

        def loss(noise: float) -> float:
            self._factor = self._lower(noise)
            values = self._values(self._half(rooted), targets, groups)
            return float(((values - targets) ** 2).mean())

        noise = least(NOISES, loss)
        self._factor = self._lower(noise)
        values = self._values(self._half(rooted), targets, groups)
        self._temperature = temperature(values, self._labels[self._probe])
        return noise

    def relearn(self, labels: Integers) -> None:
        """Learn from other labels: only rows whose label changed are read."""
        changed = np.flatnonzero(labels != self._labels)
        for start in range(0, len(changed), BLOCK):
            rows = changed[start : start + BLOCK]
            difference = self._targets(labels[rows]) - self._targets(self._labels[rows])
            self._right += self._rooted(rows).T @ difference

    def probabilities(self, labels: Integers, number: int) -> Floats:
        """Probabilities (samples, classes) of samples left out, learned from these labels."""
        found = np.empty((len(labels), self._n_classes))
        for rows in self._blocks(f"judging labels, round {number} of 2"):
            half = self._half(self._rooted(rows))
            values = self._values(half, self._targets(labels[rows]), self._groups[rows])
            found[rows] = apply_temperature(values, self._temperature)
        return found

    def _values(self, half: Features, targets: Features, groups: Integers) -> Floats:
        from scipy.linalg import solve_triangular

        right = solve_triangular(self._factor, self._right, lower=True, check_finite=False).astype(np.float32)
        return leave_out_ridge(half, half @ right, targets, groups)

    def _lower(self, noise: float) -> Features:
        return np.linalg.cholesky(self._gram + noise * np.eye(self.size)).astype(np.float32)

    def _half(self, rooted: Features) -> Features:
        from scipy.linalg import solve_triangular

        return np.ascontiguousarray(solve_triangular(self._factor, rooted.T, lower=True, check_finite=False).T)

    def _rooted(self, rows: Integers) -> Features:
        """R of these rows, shape (rows, landmarks), with the kernel R R'."""
        from scipy.linalg import solve_triangular

        distances = squared_distances(self._scaled(rows), self._landmarks)
        distances /= -self._width
        kernel = np.exp(distances, out=distances)
        return np.ascontiguousarray(
            solve_triangular(self._root, kernel.T, lower=True, check_finite=False, overwrite_b=True).T
        )

    def _scaled(self, rows: Integers) -> Features:
        inputs = (self._read(rows) - self._mean) / self._deviation
        lengths = np.linalg.norm(inputs, axis=1, keepdims=True)
        inputs *= LENGTH / np.maximum(lengths, 1e-6)
        return inputs

    def _read(self, rows: Integers) -> Features:
        in_line = len(rows) and rows[-1] - rows[0] + 1 == len(rows) and (np.diff(rows) == 1).all()
        part = self._features[rows[0] : rows[-1] + 1] if in_line else self._features[rows]
        inputs = np.asarray(part, dtype=np.float32)
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
        for rows in self._blocks("measuring features"):
            inputs = self._read(rows)
            total += inputs.sum(axis=0, dtype=np.float64)
            squares += np.einsum("sd,sd->d", inputs, inputs, dtype=np.float64)
        mean = total / len(self._labels)
        deviation = np.sqrt(np.maximum(squares / len(self._labels) - mean**2, 0))
        return mean.astype(np.float32), np.where(deviation > 1e-8, deviation, 1).astype(np.float32)

    def _targets(self, labels: Integers) -> Features:
        targets = np.full((len(labels), self._n_classes), -1 / self._n_classes, dtype=np.float32)
        targets[np.arange(len(labels)), labels] += 1
        return targets

    def _blocks(self, doing: str) -> Iterator[Integers]:
        """Rows of whole groups, about ``BLOCK`` at a time."""
        ordered = self._groups[self._order]
        start = 0
        while start < len(ordered):
            end = min(start + BLOCK, len(ordered))
            if end < len(ordered):  # to the end of the group that the block ends in
                end = int(np.searchsorted(ordered, ordered[end - 1], side="right"))
            yield self._order[start:end]
            start = end
            if self._progress:
                self._progress(doing, end, len(ordered))

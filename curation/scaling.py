"""Features as regressions take them: standardised, parts weighed, at one length, and with fewer directions.

Nothing here knows a label.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from curation.errors import RecordError

Features = npt.NDArray[np.float32]

#: Every standardised feature vector is scaled to this length, so that the strengths mean the same for any backbone.
LENGTH = 10.0
#: How a dimension's say falls with the width of the part of the features that it stands in (docs/log.md).
NARROWING = 0.3
#: Directions in which altered copies differ most from their images that are taken out, where that is asked for: with
#: thirty a slice gains nearly all that it does with a hundred, and other images lose next to nothing (docs/log.md).
NUISANCES = 30
#: Samples whose features are looked at at once where a copy of all of them would take time and memory.
_BLOCK = 256


def scale(features: Features, widths: Sequence[int] = ()) -> Features:
    """Features standardised a dimension, then each sample brought to one length; (samples, dimensions), float32.

    ``widths`` are those of the parts that features are made of, where there are several (``part_weights``).
    """
    return scaled_by(features, *scale_of(features, widths))


def scale_of(features: Features, widths: Sequence[int] = ()) -> tuple[Features, Features]:
    """What ``scale`` takes from each dimension and divides the rest by, both of shape (dimensions,)."""
    mean = features.mean(axis=0)
    squares = np.zeros(features.shape[1])
    for start in range(0, len(features), _BLOCK):
        centred = features[start : start + _BLOCK] - mean
        squares += np.einsum("sd,sd->d", centred, centred)
    deviation = np.sqrt(squares / max(len(features), 1))
    divisor = np.where(deviation > 1e-8, deviation, 1) / part_weights(widths, features.shape[1])
    return mean, np.asarray(divisor, dtype=np.float32)


def scaled_by(features: Features, mean: Features, divisor: Features, *, overwrite: bool = False) -> Features:
    """Features moved and divided a dimension, then each sample brought to one length; the same shape, float32."""
    standard = np.subtract(features, mean, out=features if overwrite else None, dtype=np.float32)
    standard /= divisor  # in place: there may be gigabytes
    standard *= LENGTH / np.maximum(np.sqrt(np.einsum("sd,sd->s", standard, standard)), 1e-6)[:, None]
    return standard


def nuisance_directions(changes: Features, count: int = NUISANCES) -> npt.NDArray[np.float16]:
    """The directions of what altered copies differ in from their images, of length one, (directions, dimensions).

    ``changes`` (copies, dimensions) are standardised features of copies less those of their images. The directions are
    their principal components, the largest first: ``count`` at most, half as many as there are copies and a twentieth
    of the dimensions. They know nothing of labels: nuisance attribute projection (Solomonoff, Campbell and Boardman,
    ICASSP 2005), where copies were other channels of a speaker. In half precision, as a model keeps them.
    """
    from scipy.linalg import eigh

    count = min(count, len(changes) // 2, changes.shape[1] // 20)
    if count < 1:
        return np.zeros((0, changes.shape[1]), dtype=np.float16)
    products = (changes @ changes.T).astype(np.float64)
    squares, vectors = eigh(products, subset_by_index=[len(changes) - count, len(changes) - 1])
    told = squares > 1e-6 * max(float(np.trace(products)), 1e-12)  # what rounding makes is no direction
    directions = (vectors[:, told] / np.sqrt(squares[told])).T.astype(np.float32) @ changes
    return np.asarray(directions[::-1], dtype=np.float16)


def without(rows: Features, directions: npt.NDArray[np.float16]) -> Features:
    """Rows (samples, dimensions) with nothing left in these directions (count, dimensions), of one length; in place."""
    taken = directions.astype(np.float32)
    for start in range(0, len(rows) if len(taken) else 0, _BLOCK):
        part = rows[start : start + _BLOCK]
        part -= (part @ taken.T) @ taken
        part *= LENGTH / np.maximum(np.sqrt(np.einsum("sd,sd->s", part, part)), 1e-6)[:, None]
    return rows


def part_weights(widths: Sequence[int], dimensions: int) -> Features:
    """What each dimension counts, shape (dimensions,), where features are parts of these widths side by side.

    The less the wider its part is, so that a part of many dimensions does not outvote the others: the width to the
    power ``NARROWING``. 1 where no widths are given. RecordError where the parts are more or less than the dimensions.

    >>> part_weights([1, 32], 33)[[0, 1, 32]].tolist() == [1.0, np.float32(32**-0.3), np.float32(32**-0.3)]
    True
    """
    if not len(widths):
        return np.ones(dimensions, dtype=np.float32)
    if sum(widths) != dimensions:
        raise RecordError(f"features have {dimensions} dimensions, but their parts {sum(widths)}")
    return np.repeat(np.array(widths, dtype=np.float32) ** -NARROWING, widths).astype(np.float32)


def principal_components(inputs: Features, count: int, seed: int, products: Features | None = None) -> Features:
    """The ``count`` directions of largest variance, uncentred; ``inputs`` itself where it has no more; float32.

    Exactly, by whichever side is short; where both are long and the inputs wide, by a randomised decomposition (Halko,
    Martinsson and Tropp, SIAM Review 2011), of ``products`` of all pairs of samples where they are given. Fewer than
    ``count`` where there are fewer samples.
    """
    from scipy.linalg import eigh  # only where labels are scored
    from sklearn.utils.extmath import randomized_svd

    if inputs.shape[1] <= count:
        return inputs
    if products is not None and len(inputs) > 4 * count:
        left, squares, _ = randomized_svd(products, count, n_iter=2, power_iteration_normalizer="LU", random_state=seed)
        return np.asarray(left * np.sqrt(squares), dtype=np.float32)
    if len(inputs) <= 4 * count:
        values, vectors = np.linalg.eigh((inputs @ inputs.T).astype(np.float64))
        roots = np.sqrt(np.maximum(values[-count:], 0))
        return np.asarray(vectors[:, -count:] * roots, dtype=np.float32)
    if inputs.shape[1] > 8 * count:
        left, values, _ = randomized_svd(inputs, count, n_iter=3, random_state=seed)
        return np.asarray(left * values, dtype=np.float32)
    wide = inputs.shape[1]
    _, vectors = eigh(inputs.T @ inputs, subset_by_index=[wide - count, wide - 1])  # single precision: half the time
    return np.asarray(inputs @ vectors, dtype=np.float32)

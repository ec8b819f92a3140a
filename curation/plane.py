"""Features of many images as points on a plane, for people to look at."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

_BLOCK = 8192


def principal_plane(features: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """The two directions in which images differ most (principal components), each scaled to a deviation of 1.

    ``features`` has shape (samples, dimensions), the result (samples, 2), in the same order; the same features always
    give the same points. A direction in which nothing differs is all zeros. Read a block of rows at a time, so that
    features on disk may be handed over.

    >>> principal_plane(np.array([[0, 0], [4, 0], [0, 1], [4, 1]], dtype=np.float32)).tolist()
    [[-1.0, -1.0], [1.0, -1.0], [-1.0, 1.0], [1.0, 1.0]]
    """
    samples, dimensions = features.shape
    if samples == 0:
        return np.zeros((0, 2))
    blocks = [slice(start, start + _BLOCK) for start in range(0, samples, _BLOCK)]
    middle = sum(features[block].sum(axis=0, dtype=np.float64) for block in blocks) / samples
    spread = np.zeros((dimensions, dimensions))
    for block in blocks:
        moved = features[block].astype(np.float64) - middle
        spread += moved.T @ moved
    values, vectors = np.linalg.eigh(spread / samples)
    axes = np.zeros((dimensions, 2))
    for place, column in enumerate(np.argsort(values)[::-1][:2]):
        if values[column] > 1e-12 * max(float(values.max()), 1e-30):
            axis = vectors[:, column]
            sign = np.sign(axis[np.abs(axis).argmax()])  # else the sign would be a matter of chance
            axes[:, place] = sign * axis / np.sqrt(values[column])
    return np.concatenate([(features[block].astype(np.float64) - middle) @ axes for block in blocks])

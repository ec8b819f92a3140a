"""Features of many images as points on a plane, for people to look at. The one door to umap-learn."""

from __future__ import annotations

import hashlib
import importlib.metadata
import io
import warnings
from pathlib import Path

import numpy as np
import numpy.typing as npt

from curation.runs import write_whole

#: So many images UMAP places: fewer are looked through without it and are not worth the half minute in which it
#: compiles itself, more were never tried.
FEWEST_NEIGHBOURS, MOST_NEIGHBOURS = 500, 50_000
_COMPONENTS = 50
_BLOCK = 8192


def principal_plane(features: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """The two directions in which images differ most (principal components), each scaled to a deviation of 1.

    ``features`` has shape (samples, dimensions), the result (samples, 2), in the same order; the same features always
    give the same points. A direction in which nothing differs is all zeros. Read a block of rows at a time, so that
    features on disk may be handed over.

    >>> principal_plane(np.array([[0, 0], [4, 0], [0, 1], [4, 1]], dtype=np.float32)).tolist()
    [[-1.0, -1.0], [1.0, -1.0], [-1.0, 1.0], [1.0, 1.0]]
    """
    points = _principal(features, 2)
    spread = points.std(axis=0) if len(points) else np.ones(2)
    points /= np.where(spread > 0, spread, 1)
    return points


def _principal(features: npt.NDArray[np.float32], count: int) -> npt.NDArray[np.float64]:
    """The first ``count`` principal components of each row; those in which nothing differs are all zeros."""
    samples, dimensions = features.shape
    if samples == 0:
        return np.zeros((0, count))
    blocks = [slice(start, start + _BLOCK) for start in range(0, samples, _BLOCK)]
    middle = sum(features[block].sum(axis=0, dtype=np.float64) for block in blocks) / samples
    spread = np.zeros((dimensions, dimensions))
    for block in blocks:
        moved = features[block].astype(np.float64) - middle
        spread += moved.T @ moved
    values, vectors = np.linalg.eigh(spread / samples)
    axes = np.zeros((dimensions, count))
    for place, column in enumerate(np.argsort(values)[::-1][:count]):
        if values[column] > 1e-12 * max(float(values.max()), 1e-30):
            axis = vectors[:, column]
            axes[:, place] = np.sign(axis[np.abs(axis).argmax()]) * axis  # else the sign would be a matter of chance
    return np.concatenate([(features[block].astype(np.float64) - middle) @ axes for block in blocks])


def neighbour_plane(features: npt.NDArray[np.float32], cache: Path) -> npt.NDArray[np.float64] | None:
    """Points that keep neighbours together, by UMAP (McInnes, Healy and Melville, arXiv:1802.03426).

    UMAP sees the first 50 principal components of ``features`` of shape (samples, dimensions). The result has shape
    (samples, 2), in the same order, and is ``None`` where umap-learn is not installed (``pip install
    "curation-toolkit[umap]"``) or the images are fewer than 500 or more than 50,000. The same features give the same
    points; they are kept in the folder ``cache``, which may be deleted.
    """
    version = _umap_version()
    if not version or not FEWEST_NEIGHBOURS <= len(features) <= MOST_NEIGHBOURS:
        return None
    file = cache / f"{_fingerprint(features, version)}.npy"
    if file.is_file():
        try:
            kept: npt.NDArray[np.float64] = np.load(file)
            if kept.shape == (len(features), 2):
                return kept
        except (OSError, ValueError, EOFError):
            pass  # a damaged file of a cache is made again
    placed = _placed_by_umap(_principal(features, min(_COMPONENTS, *features.shape)))
    into = io.BytesIO()
    np.save(into, placed)
    cache.mkdir(parents=True, exist_ok=True)
    write_whole(file, into.getvalue())
    return placed


def _umap_version() -> str:
    try:
        return importlib.metadata.version("umap-learn")
    except importlib.metadata.PackageNotFoundError:
        return ""


def _fingerprint(features: npt.NDArray[np.float32], version: str) -> str:
    told = hashlib.sha256(f"{version} {features.shape}".encode())
    for start in range(0, len(features), _BLOCK):
        told.update(features[start : start + _BLOCK].astype(np.float32).tobytes())
    return told.hexdigest()[:32]


def _placed_by_umap(rows: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of optional parts that are not installed
        from umap import UMAP

        placed = UMAP(n_neighbors=min(15, len(rows) - 1), init="pca", random_state=0, n_jobs=1).fit_transform(rows)
    return np.asarray(placed, dtype=np.float64)

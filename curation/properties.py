"""What images look like, as numbers: brightness, contrast, sharpness, colour, tilt, size, compression, ...

Measured once an image and cached. Weak slices are described by these, recipes are fitted to them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from curation.images import bytes_of, decoded, in_threads, loaded, rgb, turn_of
from curation.records import Progress, Sample
from curation.tables import read_frame, write_frame

if TYPE_CHECKING:
    import pandas as pd
    from PIL import Image

Pixels = npt.NDArray[np.uint8]
Grey = npt.NDArray[np.float32]

#: Properties are measured on the image scaled down so that its longer side is at most this.
MEASURE_SIDE = 256
#: A pixel where luma changes by at least this a pixel lies on an edge.
EDGE_SLOPE = 0.05
_SAVE_EVERY = 5_000
_PROPERTIES_VERSION = 2

#: What ``measure_properties`` measures, in column order.
PROPERTIES = (
    "brightness",
    "contrast",
    "sharpness",
    "noise",
    "saturation",
    "warmth",
    "tint",
    "highlights",
    "busyness",
    "tilt",
    "width",
    "height",
    "aspect",
    "jpeg_quality",
    "darkest",
    "brightest",
    "information",
)
#: Properties that only ``quality_issues`` reads; weak slices are not described by them.
QUALITY_ONLY = ("darkest", "brightest", "information")
#: All that ``quality_issues`` reads.
JUDGED = ("sharpness", "width", "height", "aspect", *QUALITY_ONLY)


def measure_properties(samples: Sequence[Sample], cache_file: Path, progress: Progress | None = None) -> pd.DataFrame:
    """Measure what images look like: one row a sample in their order, indexed by ``sample_id``; float64 columns.

    Measured on the image scaled down so that its longer side is at most 256 pixels, with luma = 0.299 R + 0.587 G +
    0.114 B in [0, 1]:

    - ``brightness``: mean luma, 0 black to 1 white.
    - ``contrast``: standard deviation of luma, 0 to 0.5.
    - ``sharpness``: 1 minus the blur metric of Crete et al. (2007), 0 blurred to 1 sharp; does not depend on contrast.
    - ``noise``: standard deviation of the noise in luma off the edges (Immerkaer 1996), about 0 to 0.2.
    - ``saturation``: mean of the largest minus the smallest of R, G, B; 0 grey to 1.
    - ``warmth``: mean of R - B, -1 blue to 1 red; ``tint``: mean of G - (R + B) / 2, -1 magenta to 1 green.
    - ``highlights``: share of pixels with luma of at least 0.98 (clipped, glare), 0 to 1.
    - ``busyness``: share of pixels on an edge (Sobel slope of at least 0.05 a pixel), 0 to 1.
    - ``tilt``: by how much most edges are turned from upright and level, 0 to 45 degrees (mean of the gradient's angle,
      times four so that all four directions count as one; Bigun and Granlund 1987), 0 where there are none.
    - ``width``, ``height``: of the upright image, in pixels; ``aspect``: width / height.
    - ``jpeg_quality``: 1 to 100 on the scale of libjpeg, read from the file's quantisation table; 100 where the file
      is no JPEG.
    - ``darkest``, ``brightest``: 5th and 99th percentile of luma; ``information``: entropy of the histogram of luma in
      256 bins, in bits, 0 to 8. Only ``quality_issues`` reads these three.

    ``cache_file`` (Parquet) keeps them by sample id; only what it lacks is measured. Raises DataError naming the image
    that can't be read any more.
    """
    known = _known_properties(cache_file)
    have = set(known.index)
    missing = list({s.id: s for s in samples if s.id not in have}.values())
    if missing:
        known = _measure_missing(missing, known, cache_file, progress)
    return known.loc[[s.id for s in samples]]


def _known_properties(cache_file: Path) -> pd.DataFrame:
    try:
        frame = read_frame(cache_file)
    except (OSError, ValueError):  # a cache may be deleted at any time, so a missing or broken one is made anew
        return _properties_frame({})
    if list(frame.columns) != ["sample_id", *PROPERTIES, "version"]:
        return _properties_frame({})
    frame = frame[frame["version"] == _PROPERTIES_VERSION]
    return frame.set_index("sample_id")[list(PROPERTIES)]


def _measure_missing(
    missing: Sequence[Sample], known: pd.DataFrame, cache_file: Path, progress: Progress | None
) -> pd.DataFrame:
    measured = dict(zip(known.index, known.to_dict("records"), strict=True))
    before = saved = len(measured)
    try:
        for chunk in in_threads(_measure_file, missing):
            done = len(measured) - before
            measured.update(zip((s.id for s in missing[done : done + len(chunk)]), chunk, strict=True))
            if len(measured) - saved >= _SAVE_EVERY:
                saved = _keep_properties(measured, cache_file)
            if progress:
                progress("measuring images", done + len(chunk), len(missing))
    finally:
        _keep_properties(measured, cache_file)
    return _properties_frame(measured)


def _properties_frame(measured: Mapping[str, Mapping[str, float]]) -> pd.DataFrame:
    import pandas as pd

    frame = pd.DataFrame(list(measured.values()), columns=list(PROPERTIES), dtype=np.float64)
    frame.index = pd.Index(list(measured), name="sample_id", dtype="str")
    return frame


def _keep_properties(measured: Mapping[str, Mapping[str, float]], cache_file: Path) -> int:
    write_frame(cache_file, _properties_frame(measured).reset_index().assign(version=_PROPERTIES_VERSION))
    return len(measured)


def _measure_file(sample: Sample) -> dict[str, float]:
    pixels, width, height, quality = decoded(
        bytes_of(sample), sample.file, lambda image: _at_measuring_scale(image, sample.bits)
    )
    about = {"width": width, "height": height, "aspect": width / height, "jpeg_quality": quality}
    return measure_pixels(pixels) | about


def _at_measuring_scale(image: Image.Image, bits: int) -> tuple[Pixels, float, float, float]:
    """Pixels at measuring scale, the upright width and height of the file, and its JPEG quality."""
    from PIL import Image

    width, height = image.size
    quality = jpeg_quality(getattr(image, "quantization", None))
    upright = rgb(loaded(image, at_least=MEASURE_SIDE), bits)
    if turn_of(image) in (
        Image.Transpose.TRANSPOSE, Image.Transpose.ROTATE_270, Image.Transpose.TRANSVERSE, Image.Transpose.ROTATE_90
    ):  # fmt: skip
        width, height = height, width
    upright.thumbnail((MEASURE_SIDE, MEASURE_SIDE), Image.Resampling.BICUBIC, reducing_gap=3.0)
    return np.asarray(upright), float(width), float(height), quality


#: The table for luma that libjpeg scales, at quality 50 (ISO 10918-1, Annex K), in order of size.
_LUMA_AT_50 = (
    *(10, 11, 12, 12, 13, 14, 14, 14, 16, 16, 16, 17, 18, 19, 22, 22, 24, 24, 24, 26, 29, 35, 37, 40, 40, 49, 51, 51),
    *(55, 55, 56, 56, 57, 58, 60, 61, 62, 64, 64, 68, 69, 72, 77, 78, 80, 81, 87, 87, 92, 92, 95, 98, 99, 100, 101),
    *(103, 103, 103, 104, 109, 112, 113, 120, 121),
)


def jpeg_quality(tables: Mapping[int, Sequence[int]] | None) -> float:
    """The quality that a JPEG was saved at, 1 to 100, from its quantisation tables as Pillow has them; 100 without.

    The one for which libjpeg's table has the sum that is nearest to this one's.

    >>> jpeg_quality({0: _LUMA_AT_50}), jpeg_quality(None)
    (50.0, 100.0)
    """
    if not tables or 0 not in tables:
        return 100.0
    return float(1 + np.abs(_sums_by_quality() - sum(tables[0])).argmin())


@lru_cache(maxsize=1)
def _sums_by_quality() -> npt.NDArray[np.int64]:
    """The sum of libjpeg's luma table at each quality from 1 to 100."""
    qualities = np.arange(1, 101)
    scales = np.where(qualities < 50, 5000 // qualities, 200 - 2 * qualities)
    tables = (np.array(_LUMA_AT_50)[None, :] * scales[:, None] + 50) // 100
    return np.asarray(np.clip(tables, 1, 255).sum(axis=1), dtype=np.int64)


def measure_pixels(pixels: Pixels) -> dict[str, float]:
    """The properties that ``measure_properties`` takes from pixels, of one (H, W, 3) uint8 RGB image at any scale.

    >>> white = measure_pixels(np.full((8, 8, 3), 255, dtype=np.uint8))
    >>> white["brightness"], white["contrast"], white["highlights"], white["information"]
    (1.0, 0.0, 1.0, 0.0)
    """
    red, green, blue = np.ascontiguousarray(pixels.transpose(2, 0, 1))
    luma = _luma(red, green, blue)
    levels = np.rint(luma * np.float32(255)).astype(np.uint8)
    histogram = np.bincount(levels.ravel(), minlength=256) / levels.size
    across, down = _gradients(luma)
    slope: Grey = np.sqrt(across**2 + down**2)
    means = [float(channel.mean(dtype=np.float64)) / 255 for channel in (red, green, blue)]
    vivid = np.maximum(np.maximum(red, green), blue) - np.minimum(np.minimum(red, green), blue)
    cumulated = histogram.cumsum()
    return {
        "brightness": _rounded(luma.mean(dtype=np.float64)),
        "contrast": _rounded(luma.std(dtype=np.float64)),
        "sharpness": _rounded(1 - blur(luma)),
        "noise": _rounded(noise(luma, slope)),
        "saturation": _rounded(vivid.mean(dtype=np.float64) / 255),
        "warmth": _rounded(means[0] - means[2]),
        "tint": _rounded(means[1] - (means[0] + means[2]) / 2),
        "highlights": _rounded(histogram[250:].sum()),
        "busyness": _rounded(np.count_nonzero(slope >= EDGE_SLOPE) / max(slope.size, 1)),
        "tilt": tilt(across, down),
        "darkest": float(np.searchsorted(cumulated, 0.05)) / 255,
        "brightest": float(np.searchsorted(cumulated, 0.99 - 1e-9)) / 255,
        "information": _rounded(-(histogram[histogram > 0] * np.log2(histogram[histogram > 0])).sum()),
    }


def _rounded(value: float) -> float:
    """Six digits: what differs beyond them is arithmetic, and would make cut points of a flat property."""
    return round(float(value), 6) + 0.0


def blur(luma: Grey) -> float:
    """How blurred an image (H, W) is, 0 sharp to 1: how little of its variation a further blur of 11 pixels takes away.

    Crete, Dolmiere, Ladret, Nicolas, "The blur effect" (SPIE 2007), the larger of both directions. A flat image counts
    as 0: nothing is known of it.
    """
    from scipy.ndimage import uniform_filter1d

    found = []
    for axis in (0, 1):
        variation = np.abs(np.diff(luma, axis=axis))
        total = float(variation.sum(dtype=np.float64))
        if total <= 1e-3 * luma.size / 255:
            return 0.0
        left = np.abs(np.diff(uniform_filter1d(luma, 11, axis=axis, mode="reflect"), axis=axis))
        found.append(1 - float(np.maximum(variation - left, 0).sum(dtype=np.float64)) / total)
    return max(found)


def noise(luma: Grey, slope: Grey) -> float:
    """Standard deviation of the noise in an image (H, W), measured off its edges.

    Immerkaer, "Fast noise variance estimation" (CVIU 1996), without the pixels that lie on an edge, as Tai and Yang
    (2008) propose. ``slope`` has shape (H - 2, W - 2).
    """
    smooth = slope < EDGE_SLOPE
    if not smooth.any():
        return 0.0
    across = luma[:, :-2] - 2 * luma[:, 1:-1] + luma[:, 2:]
    response = np.abs(across[:-2] - 2 * across[1:-1] + across[2:])
    mean = float((response * smooth).sum(dtype=np.float64)) / int(smooth.sum())
    return mean * float(np.sqrt(np.pi / 2)) / 6


def tilt(across: Grey, down: Grey) -> float:
    """By how many degrees most edges are turned from upright and level, 0 to 45, from gradients (H, W); 0 without any.

    >>> slanted = np.full((5, 5), 0.1, dtype=np.float32)
    >>> tilt(slanted, slanted), tilt(slanted, 0 * slanted)
    (45.0, 0.0)
    """
    direction = (across + 1j * down) ** 2  # its length is the edge's energy, its angle twice the edge's
    energy = np.maximum(np.abs(direction), 1e-12)
    turned = complex((direction**2 / energy).sum(dtype=np.complex128))
    return round(abs(float(np.degrees(np.angle(turned)))) / 4, 2) if abs(turned) > 1e-6 * max(across.size, 1) else 0.0


def _gradients(luma: Grey) -> tuple[Grey, Grey]:
    """How much luma changes a pixel to the right and downwards (Sobel), shape (H - 2, W - 2); empty for less than 3."""
    if min(luma.shape) < 3:
        empty = np.zeros((0, 0), dtype=np.float32)
        return empty, empty
    down = luma[:-2] + 2 * luma[1:-1] + luma[2:]
    over = luma[:, :-2] + 2 * luma[:, 1:-1] + luma[:, 2:]
    eighth = np.float32(1 / 8)
    return (down[:, 2:] - down[:, :-2]) * eighth, (over[2:] - over[:-2]) * eighth


def _luma(red: Pixels, green: Pixels, blue: Pixels) -> Grey:
    weighted = np.float32(0.299) * red + np.float32(0.587) * green + np.float32(0.114) * blue
    luma: Grey = np.clip(weighted / np.float32(255), 0, 1)
    return luma

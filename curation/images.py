"""Images: opened safely, decoded once into a cache, and measured (brightness, contrast, sharpness, size, ...).

The one door to Pillow's decoders. Every picture comes out the same way: upright, first frame, (H, W, 3) RGB uint8.
"""

from __future__ import annotations

import hashlib
import io
import os
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import numpy.typing as npt

from curation.errors import DataError
from curation.records import Issue, Progress, Sample
from curation.runs import write_whole
from curation.tables import read_frame, write_frame

if TYPE_CHECKING:
    import pandas as pd
    from PIL import Image

Pixels = npt.NDArray[np.uint8]
Grey = npt.NDArray[np.float32]
Measured = npt.NDArray[np.float64]

#: Pillow's own limit for a decompression bomb (twice ``Image.MAX_IMAGE_PIXELS``).
MAX_PIXELS = 178_956_970
#: Properties are measured on the image scaled down so that its longer side is at most this.
MEASURE_SIDE = 256
#: A pixel where luma changes by at least this a pixel lies on an edge.
EDGE_SLOPE = 0.05
#: How many images are held at a time while they are decoded, and after how many the result is written.
_CHUNK = 256
_SAVE_EVERY = 5_000
_DECODER_VERSION = 1
_PROPERTIES_VERSION = 1

#: What ``measure_properties`` measures, in column order.
PROPERTIES = (
    "brightness",
    "contrast",
    "sharpness",
    "noise",
    "saturation",
    "highlights",
    "busyness",
    "width",
    "height",
    "aspect",
    "darkest",
    "brightest",
    "information",
)
#: Properties that only ``quality_issues`` reads; weak slices are not described by them.
QUALITY_ONLY = ("darkest", "brightest", "information")


# --- reading


@dataclass(frozen=True)
class ImageFacts:
    """What an image file is: the SHA-256 of its bytes (64 hex digits), and its upright size in pixels."""

    sha256: str
    width: int
    height: int


def read_image(file: Path) -> Pixels:
    """Read an image as people see it: upright, on white, in colour; shape (H, W, 3), uint8, RGB.

    EXIF orientation is applied, transparency is laid on white, greyscale, palette and CMYK become RGB (without colour
    profiles), 16-bit values are divided by 256, floating point is taken as 0 to 1, or as 0 to 255 where a value is
    above 1. Of an animation the first frame is read. Raises DataError with the file's name and the reason where it is
    missing, a folder, empty, cut off, no image, or larger than ``MAX_PIXELS``.
    """
    return _decoded(_read_bytes(file), file, lambda image: np.asarray(_rgb(_loaded(image))))


def inspect_image(file: Path) -> ImageFacts:
    """Check that an image can be read to its end, and tell its content id and size; DataError where it can't be."""
    raw = _read_bytes(file)
    width, height = _decoded(raw, file, lambda image: _loaded(image).size)
    return ImageFacts(hashlib.sha256(raw).hexdigest(), width, height)


T = TypeVar("T")


def _read_bytes(file: Path) -> bytes:
    try:
        mode = file.stat().st_mode
        if stat.S_ISDIR(mode):
            raise DataError(f"{file} is a folder, not an image; name the image itself")
        if not stat.S_ISREG(mode):
            raise DataError(f"{file} is no regular file; copy the image into one")
        raw = file.read_bytes()
    except FileNotFoundError:
        raise DataError(f"{file} does not exist; correct its path or leave it out") from None
    except OSError as error:
        raise DataError(f"{file} can't be read ({error.strerror or error}); check its permissions and disk") from error
    except ValueError as error:
        raise DataError(f"{str(file)!r} is no file name ({error}); correct its path or leave it out") from error
    if not raw:
        raise DataError(f"{file} is empty; copy it again or leave it out")
    return raw


def _decoded(raw: bytes, file: Path, take: Callable[[Image.Image], T]) -> T:
    """``take(image)``, which decodes, with the many exceptions of the decoders made into one."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(raw)) as image:
            if image.width * image.height > MAX_PIXELS:
                raise Image.DecompressionBombError
            return take(image)
    except Image.DecompressionBombError:
        raise DataError(f"{file} has more than {MAX_PIXELS // 10**6} million pixels; scale it down first") from None
    except UnidentifiedImageError:
        raise DataError(f"{file} is not an image of a known format; leave it out or convert it to PNG") from None
    except MemoryError:
        raise DataError(f"{file} does not fit into memory; scale it down first") from None
    except Exception as error:  # a broken file makes Pillow's plugins raise almost anything, struct.error to KeyError
        raise DataError(f"{file} is damaged or cut off ({error}); copy it again or leave it out") from error


def _loaded(image: Image.Image, at_least: int = 0) -> Image.Image:
    """Decoded to its end and upright. Where ``at_least`` is given, a large JPEG is decoded at the coarser scale that
    still has that many pixels a side, which takes a fraction of the time.
    """
    if at_least:
        image.draft(None, (at_least, at_least))
    turn = _turn(image)
    image.load()
    return image if turn is None else image.transpose(turn)


def _turn(image: Image.Image) -> Image.Transpose | None:
    """What puts the image upright by its EXIF orientation; ``None`` also where EXIF itself is broken."""
    from PIL import Image

    turns = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_270,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_90,
    }
    try:
        return turns.get(image.getexif().get(0x0112, 1))
    except Exception:  # a broken EXIF block raises almost anything; the picture itself can still be whole
        return None


def _rgb(image: Image.Image) -> Image.Image:
    from PIL import Image

    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode.startswith("I") or image.mode == "F":
        return Image.fromarray(_to_eight_bits(np.asarray(image))).convert("RGB")
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        white = Image.new("RGBA", layer.size, "white")
        return Image.alpha_composite(white, layer).convert("RGB")
    return image.convert("RGB")


def _to_eight_bits(values: npt.NDArray[np.generic]) -> Pixels:
    """Whole numbers as 16-bit; floating point as 0 to 1, or 0 to 255 where a value is above 1.

    >>> _to_eight_bits(np.array([0, 256, 65535], dtype=np.uint16)).tolist()
    [0, 1, 255]
    >>> _to_eight_bits(np.array([0.0, 0.5, 1.0])).tolist()
    [0, 128, 255]
    """
    if values.dtype.kind == "f":
        finite = np.nan_to_num(values.astype(np.float64), nan=0.0, posinf=255.0, neginf=0.0)
        scale = 255.0 if finite.max(initial=0.0) <= 1.0 else 1.0
        return np.clip(np.rint(finite * scale), 0, 255).astype(np.uint8)
    return (np.clip(values.astype(np.int64), 0, 65535) >> 8).astype(np.uint8)


def _bytes_of(sample: Sample) -> bytes:
    """The bytes of a sample, which still must be those that it was imported with."""
    raw = _read_bytes(sample.file)
    if len(sample.id) == 64 and hashlib.sha256(raw).hexdigest() != sample.id:
        raise DataError(f"{sample.file} has changed since it was imported; run `curate init` again to take it in anew")
    return raw


def _threads() -> int:
    return min(8, os.cpu_count() or 1)


def _in_threads(work: Callable[[Sample], T], samples: Sequence[Sample]) -> Iterator[list[T]]:
    """Results in order, a chunk at a time, so that no more than a chunk of them is ever held."""
    with ThreadPoolExecutor(_threads(), thread_name_prefix="images") as pool:
        for start in range(0, len(samples), _CHUNK):
            yield list(pool.map(work, samples[start : start + _CHUNK]))


# --- pixels, decoded once


class PixelCache:
    """Images of one size, decoded once and kept in one memory-mapped file that grows; may be deleted at any time.

    Each image is squashed to ``size`` x ``size`` pixels (antialiased where it shrinks). Rows are written first and
    the index after them, whole, so that a row that the index names is always complete: whatever follows the last
    indexed row was torn off by a crash and is written over. A lock of the operating system keeps two processes from
    growing the same file at once.
    """

    def __init__(self, folder: Path, size: int) -> None:
        self.folder = folder
        self.size = size
        self._rows_file = folder / f"pixels-{size}-v{_DECODER_VERSION}.u8"
        self._index_file = folder / f"pixels-{size}-v{_DECODER_VERSION}.index"
        self._row_bytes = size * size * 3

    def pixels(self, samples: Sequence[Sample], progress: Progress | None = None) -> Pixels:
        """Pixels of these samples, shape (samples, size, size, 3), uint8, RGB, in their order; not to be written to.

        A view of the file where the samples lie one after another in it, a copy in memory where not. Raises DataError
        naming the first image that can't be read any more; what was decoded before it is kept.
        """
        index = self._index()
        if any(s.id not in index for s in samples):
            index = self._grow(samples, progress)
        shape = (len(samples), self.size, self.size, 3)
        if not samples:
            return np.zeros(shape, dtype=np.uint8)
        stored = np.memmap(self._rows_file, dtype=np.uint8, mode="r", shape=(len(index), self.size, self.size, 3))
        rows = np.array([index[s.id] for s in samples], dtype=np.int64)
        if (np.diff(rows) == 1).all():
            return stored[rows[0] : rows[-1] + 1]
        gathered: Pixels = np.empty(shape, dtype=np.uint8)
        np.take(stored, rows, axis=0, out=gathered)
        return gathered

    def _index(self) -> dict[str, int]:
        """Sample id to row; only rows that are there in full."""
        try:
            ids = self._index_file.read_text(encoding="ascii").split()
            whole = self._rows_file.stat().st_size // self._row_bytes
        except (OSError, UnicodeDecodeError):
            return {}
        return {sample_id: row for row, sample_id in enumerate(ids[:whole])}

    def _grow(self, samples: Sequence[Sample], progress: Progress | None) -> dict[str, int]:
        import filelock  # only when something is written

        self.folder.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(self._index_file.with_suffix(".lock")):
            index = self._index()
            missing = list({s.id: s for s in samples if s.id not in index}.values())
            with self._rows_file.open("r+b" if self._rows_file.exists() else "w+b") as out:
                out.truncate(len(index) * self._row_bytes)
                out.seek(0, os.SEEK_END)
                try:
                    self._append(out, missing, index, progress)
                finally:
                    self._save(out, index)
        return index

    def _append(
        self, out: io.BufferedRandom, missing: Sequence[Sample], index: dict[str, int], progress: Progress | None
    ) -> None:
        unsaved = 0
        done = 0
        for chunk in _in_threads(self._decode, missing):
            out.write(b"".join(chunk))
            for sample in missing[done : done + len(chunk)]:
                index[sample.id] = len(index)
            done += len(chunk)
            unsaved += len(chunk)
            if unsaved >= _SAVE_EVERY:
                self._save(out, index)
                unsaved = 0
            if progress:
                progress("decoding images", done, len(missing))

    def _save(self, out: io.BufferedRandom, index: Mapping[str, int]) -> None:
        out.flush()
        os.fsync(out.fileno())
        write_whole(self._index_file, "\n".join(index) + "\n")

    def decode(self, samples: Sequence[Sample]) -> Pixels:
        """The same as ``pixels``, not kept: for what is looked at once."""
        found = np.empty((len(samples), self.size, self.size, 3), dtype=np.uint8)
        done = 0
        for chunk in _in_threads(self._decode, samples):
            for raw in chunk:
                found[done] = np.frombuffer(raw, dtype=np.uint8).reshape(found.shape[1:])
                done += 1
        return found

    def _decode(self, sample: Sample) -> bytes:
        def squashed(image: Image.Image) -> bytes:
            return squash(_rgb(_loaded(image, at_least=2 * self.size)), self.size).tobytes()

        return _decoded(_bytes_of(sample), sample.file, squashed)


def squash(image: Image.Image, size: int) -> Pixels:
    """Resize to a square, whatever the shape: Lanczos (antialiased) where a side shrinks, bicubic where both grow."""
    from PIL import Image

    shrinks = max(image.size) > size
    kind = Image.Resampling.LANCZOS if shrinks else Image.Resampling.BICUBIC
    return np.asarray(image.resize((size, size), kind, reducing_gap=3.0 if shrinks else None))


# --- properties


def measure_properties(samples: Sequence[Sample], cache_file: Path, progress: Progress | None = None) -> pd.DataFrame:
    """Measure what images look like: one row a sample in their order, indexed by ``sample_id``; float64 columns.

    Measured on the image scaled down so that its longer side is at most 256 pixels, with luma = 0.299 R + 0.587 G +
    0.114 B in [0, 1]:

    - ``brightness``: mean luma, 0 black to 1 white.
    - ``contrast``: standard deviation of luma, 0 to 0.5.
    - ``sharpness``: 1 minus the blur metric of Crete et al. (2007), 0 blurred to 1 sharp; does not depend on contrast.
    - ``noise``: standard deviation of the noise in luma off the edges (Immerkaer 1996), about 0 to 0.2.
    - ``saturation``: mean of the largest minus the smallest of R, G, B; 0 grey to 1.
    - ``highlights``: share of pixels with luma of at least 0.98 (clipped, glare), 0 to 1.
    - ``busyness``: share of pixels on an edge (Sobel slope of at least 0.05 a pixel), 0 to 1.
    - ``width``, ``height``: of the upright image, in pixels; ``aspect``: width / height.
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
        for chunk in _in_threads(_measure_file, missing):
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
    pixels, width, height = _decoded(_bytes_of(sample), sample.file, _at_measuring_scale)
    return measure_pixels(pixels) | {"width": width, "height": height, "aspect": width / height}


def _at_measuring_scale(image: Image.Image) -> tuple[Pixels, float, float]:
    """Pixels at measuring scale, and the upright width and height of the file."""
    from PIL import Image

    width, height = image.size
    turn = _turn(image)
    upright = _rgb(_loaded(image, at_least=MEASURE_SIDE))
    if turn in (
        Image.Transpose.TRANSPOSE, Image.Transpose.ROTATE_270, Image.Transpose.TRANSVERSE, Image.Transpose.ROTATE_90
    ):  # fmt: skip
        width, height = height, width
    upright.thumbnail((MEASURE_SIDE, MEASURE_SIDE), Image.Resampling.BICUBIC, reducing_gap=3.0)
    return np.asarray(upright), float(width), float(height)


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
    slope = _slope(luma)
    vivid = np.maximum(np.maximum(red, green), blue) - np.minimum(np.minimum(red, green), blue)
    cumulated = histogram.cumsum()
    return {
        "brightness": _rounded(luma.mean(dtype=np.float64)),
        "contrast": _rounded(luma.std(dtype=np.float64)),
        "sharpness": _rounded(1 - blur(luma)),
        "noise": _rounded(noise(luma, slope)),
        "saturation": _rounded(vivid.mean(dtype=np.float64) / 255),
        "highlights": _rounded(histogram[250:].sum()),
        "busyness": _rounded(np.count_nonzero(slope >= EDGE_SLOPE) / max(slope.size, 1)),
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
    (2008) propose. ``slope`` has shape (H - 2, W - 2), see ``_slope``.
    """
    smooth = slope < EDGE_SLOPE
    if not smooth.any():
        return 0.0
    across = luma[:, :-2] - 2 * luma[:, 1:-1] + luma[:, 2:]
    response = np.abs(across[:-2] - 2 * across[1:-1] + across[2:])
    mean = float((response * smooth).sum(dtype=np.float64)) / int(smooth.sum())
    return mean * float(np.sqrt(np.pi / 2)) / 6


def _slope(luma: Grey) -> Grey:
    """How much luma changes a pixel (Sobel), shape (H - 2, W - 2); empty for an image of less than three a side."""
    if min(luma.shape) < 3:
        return np.zeros((0, 0), dtype=np.float32)
    down = luma[:-2] + 2 * luma[1:-1] + luma[2:]
    over = luma[:, :-2] + 2 * luma[:, 1:-1] + luma[:, 2:]
    slope: Grey = np.sqrt((down[:, 2:] - down[:, :-2]) ** 2 + (over[2:] - over[:-2]) ** 2) / np.float32(8)
    return slope


def _luma(red: Pixels, green: Pixels, blue: Pixels) -> Grey:
    weighted = np.float32(0.299) * red + np.float32(0.587) * green + np.float32(0.114) * blue
    luma: Grey = np.clip(weighted / np.float32(255), 0, 1)
    return luma


# --- judging


@dataclass(frozen=True)
class _Rule:
    """When a property makes an image an issue: below ``soft`` and unusual here, or below ``hard`` whatever is usual."""

    kind: str
    soft: float
    hard: float
    reason: str


#: Thresholds of dark, light and information follow cleanvision's published defaults (99th percentile of brightness
#: under 0.32, 5th over 0.95, entropy under 3 bits). Sharpness: photographs and cell images that are in focus measure
#: 0.45 to 0.9, the same with a Gaussian blur of 3 pixels 0.2 to 0.45. The hard levels are a tenth to a half of them.
_RULES = (
    _Rule(
        "dark", 0.32, 0.06,
        "very dark: its brightest parts reach {value:.0%} of full brightness, usual here {usual:.0%}",
    ),
    _Rule(
        "light", 0.05, 0.01,
        "washed out: even its darkest parts are {white:.0%} bright, usual here {usual_white:.0%}",
    ),
    _Rule("blurry", 0.35, 0.15, "blurred: sharpness {value:.2f}, usual here {usual:.2f}"),
    _Rule(
        "low_information", 3 / 8, 1 / 8,
        "almost empty: {bits:.1f} bits of information a pixel, usual here {usual_bits:.1f}",
    ),
)  # fmt: skip
#: Where more than this share of a data set falls below a hard level, that is how the set is, not an issue.
_USUAL_SHARE = 0.1
#: How many robust standard deviations below the median are unusual, and the least deviation that counts.
_FENCE, _LEAST_DEVIATION = 3.0, 0.02
#: Sides that differ from the usual by more than this factor are odd; cleanvision's default for aspect is 0.35.
_ODD_SIZE, _ODD_ASPECT = 3.0, 0.35


def quality_issues(properties: pd.DataFrame) -> list[Issue]:
    """Images that are dark, light, blurry, almost empty, or of an odd size or shape; worst first within each kind.

    ``properties`` is what ``measure_properties`` gives. A level counts only where it is also unusual in this data set
    (three robust standard deviations from the median), so that a set which is dark throughout, as electroluminescence
    images can be, is not flagged as a whole; a black, white or empty image is flagged unless a tenth of the set is.
    Scores are 0 for the worst and 1 for the best, on each kind's own scale.
    """
    ids = [str(sample_id) for sample_id in properties.index]
    columns = {name: properties[name].to_numpy(dtype=np.float64) for name in PROPERTIES}
    scales = {
        "dark": columns["brightest"],
        "light": 1 - columns["darkest"],
        "blurry": columns["sharpness"],
        "low_information": columns["information"] / 8,
    }
    found: list[Issue] = []
    for rule in _RULES:
        found += _low_issues(rule, ids, scales[rule.kind])
    return found + _odd_sizes(ids, columns["width"], columns["height"]) + _odd_aspects(ids, columns["aspect"])


def unusually_low(values: Measured, soft: float, hard: float) -> npt.NDArray[np.bool_]:
    """Which values, shape (n,), are below ``soft`` and far below the median, or below ``hard`` where few are.

    >>> unusually_low(np.array([0.1, 0.8, 0.8, 0.7, 0.9]), soft=0.3, hard=0.05).tolist()
    [True, False, False, False, False]
    >>> unusually_low(np.array([0.1, 0.1, 0.1, 0.12, 0.09]), soft=0.3, hard=0.05).tolist()
    [False, False, False, False, False]
    """
    if not len(values):
        return np.zeros(0, dtype=np.bool_)
    low: npt.NDArray[np.bool_] = (values < soft) & (values < _fence(values))
    very_low = values < hard
    return low | very_low if very_low.mean() <= _USUAL_SHARE else low


def _fence(values: Measured) -> float:
    middle = float(np.median(values))
    deviation = 1.4826 * float(np.median(np.abs(values - middle)))
    return middle - _FENCE * max(deviation, _LEAST_DEVIATION)


def _low_issues(rule: _Rule, ids: Sequence[str], values: Measured) -> list[Issue]:
    def reason(row: int) -> str:
        value, usual = values[row], np.median(values)
        return rule.reason.format(
            value=value, usual=usual, white=1 - value, usual_white=1 - usual, bits=8 * value, usual_bits=8 * usual
        )

    return _issues(rule.kind, ids, values, unusually_low(values, rule.soft, rule.hard), reason)


def _odd_sizes(ids: Sequence[str], width: Measured, height: Measured) -> list[Issue]:
    def reason(row: int) -> str:
        usual = f"{np.median(width):.0f} x {np.median(height):.0f}"
        return f"of an odd size: {width[row]:.0f} x {height[row]:.0f} pixels, usual here {usual}"

    likeness = _likeness(np.sqrt(width * height))
    return _issues("odd_size", ids, likeness, unusually_low(likeness, 1 / _ODD_SIZE, 1 / 30), reason)


def _odd_aspects(ids: Sequence[str], aspect: Measured) -> list[Issue]:
    def reason(row: int) -> str:
        return f"of an odd shape: {aspect[row]:.2f} times as wide as high, usual here {np.median(aspect):.2f}"

    narrow = np.minimum(aspect, 1 / aspect)
    flagged = (narrow < _ODD_ASPECT) & unusually_low(_likeness(aspect), 0.7, 0.05)
    return _issues("odd_aspect_ratio", ids, narrow, flagged, reason)


def _likeness(lengths: Measured) -> Measured:
    """1 for the usual length (the median), 1/3 for three times more or less."""
    if not len(lengths):
        return lengths
    likeness: Measured = np.exp(-np.abs(np.log(lengths / np.median(lengths))))
    return likeness


def _issues(
    kind: str, ids: Sequence[str], scores: Measured, flagged: npt.NDArray[np.bool_], reason: Callable[[int], str]
) -> list[Issue]:
    """An issue for each flagged row, worst first."""
    rows = sorted(np.flatnonzero(flagged).tolist(), key=lambda row: (scores[row], ids[row]))
    return [Issue(ids[row], kind, float(np.clip(scores[row], 0, 1)), reason(row)) for row in rows]

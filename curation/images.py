"""Images: opened safely, and decoded once into a cache.

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
from curation.records import Progress, Sample
from curation.runs import write_whole

if TYPE_CHECKING:
    from PIL import Image

Pixels = npt.NDArray[np.uint8]

#: What is decoded, by Pillow's names and whatever a file is called. Pillow knows forty more formats: one runs
#: Ghostscript, and most were never tried on files of strangers.
FORMATS = ("JPEG", "PNG", "BMP", "GIF", "TIFF", "WEBP", "PPM", "JPEG2000", "AVIF")
#: Pillow's own limit for a decompression bomb (twice ``Image.MAX_IMAGE_PIXELS``).
MAX_PIXELS = 178_956_970
#: What is wrong with a file whose content is not the sample's any more.
CHANGED = "has changed since it was imported; put the old one back, or bring the new one in with `curate add`"
#: How many of their bits 16-bit images may use: industrial and medical cameras fill 10, 12 or 14 of them.
BITS = (8, 10, 12, 14, 16)
#: How many images are held at a time while they are decoded, and after how many the result is written.
_CHUNK = 256
_SAVE_EVERY = 5_000
_DECODER_VERSION = 1

# --- reading


@dataclass(frozen=True)
class ImageFacts:
    """What an image file is: the SHA-256 of its bytes (64 hex digits), and its upright size in pixels.

    ``deepest`` is the largest value of a 16-bit grey image; 0 for any other.
    """

    sha256: str
    width: int
    height: int
    deepest: int = 0


def read_image(file: Path, bits: int = 16) -> Pixels:
    """Read an image as people see it: upright, on white, in colour; shape (H, W, 3), uint8, RGB.

    EXIF orientation is applied, transparency is laid on white, greyscale, palette and CMYK become RGB (without colour
    profiles). Of 16-bit grey images ``bits`` are in use (``BITS``): of 16, values are divided by 256, of 12 by 16, and
    larger ones are white. Floating point is taken as 0 to 1, or as 0 to 255 where a value is above 1. Of an animation
    the first frame is read. Raises DataError with the file's name and the reason where it is
    missing, a folder, empty, cut off, no image, or larger than ``MAX_PIXELS``.
    """
    return decoded(_read_bytes(file), file, lambda image: np.asarray(rgb(loaded(image), bits)))


def inspect_image(file: Path) -> ImageFacts:
    """Check that an image can be read to its end, and tell what it is; DataError where it can't be."""

    def facts(image: Image.Image) -> tuple[int, int, int]:
        upright = loaded(image)
        return (*upright.size, int(np.asarray(upright).max()) if is_deep(upright) else 0)

    raw = _read_bytes(file)
    return ImageFacts(hashlib.sha256(raw).hexdigest(), *decoded(raw, file, facts))


def is_deep(image: Image.Image) -> bool:
    """Whether it is grey of whole numbers of more than 8 bits."""
    return image.mode.startswith("I")


def bits_in_use(largest: int) -> int:
    """How many of 16 bits images use whose largest value this is: one of ``BITS``, 16 where there is none.

    >>> bits_in_use(4095), bits_in_use(4096), bits_in_use(0)
    (12, 14, 16)
    """
    return next((bits for bits in BITS if 0 < largest < 2**bits), 16)


def format_of(file: Path) -> str:
    """Pillow's name of what a file holds, whatever it is called, by its beginning; DataError where that is no image."""
    return decoded(file, file, lambda image: image.format or "")


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


def decoded(raw: bytes | Path, file: Path, take: Callable[[Image.Image], T]) -> T:
    """``take(image)``, which decodes, with the many exceptions of the decoders made into one.

    Of a path in place of bytes, no more is read than ``take`` needs.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(raw if isinstance(raw, Path) else io.BytesIO(raw), formats=FORMATS) as image:
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


def loaded(image: Image.Image, at_least: int = 0) -> Image.Image:
    """Decoded to its end and upright. Where ``at_least`` is given, a large JPEG is decoded at the coarser scale that
    still has that many pixels a side, which takes a fraction of the time.
    """
    if at_least:
        image.draft(None, (at_least, at_least))
    image.load()
    turn = turn_of(image)  # not before: Pillow turns a TIFF itself while it loads
    return image if turn is None else image.transpose(turn)


def turn_of(image: Image.Image) -> Image.Transpose | None:
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


def rgb(image: Image.Image, bits: int = 16) -> Image.Image:
    """In colour, on white, 8 bits each; ``bits`` as of ``read_image``."""
    from PIL import Image

    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode.startswith("I") or image.mode == "F":
        return Image.fromarray(_to_eight_bits(np.asarray(image), bits)).convert("RGB")
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        white = Image.new("RGBA", layer.size, "white")
        return Image.alpha_composite(white, layer).convert("RGB")
    return image.convert("RGB")


def _to_eight_bits(values: npt.NDArray[np.generic], bits: int = 16) -> Pixels:
    """Whole numbers of so many bits; floating point as 0 to 1, or 0 to 255 where a value is above 1.

    >>> _to_eight_bits(np.array([0, 256, 65535], dtype=np.uint16)).tolist()
    [0, 1, 255]
    >>> _to_eight_bits(np.array([0, 256, 4095, 65535], dtype=np.uint16), bits=12).tolist()
    [0, 16, 255, 255]
    >>> _to_eight_bits(np.array([0.0, 0.5, 1.0])).tolist()
    [0, 128, 255]
    """
    if values.dtype.kind == "f":
        finite = np.nan_to_num(values.astype(np.float64), nan=0.0, posinf=255.0, neginf=0.0)
        scale = 255.0 if finite.max(initial=0.0) <= 1.0 else 1.0
        return np.clip(np.rint(finite * scale), 0, 255).astype(np.uint8)
    return (np.clip(values.astype(np.int64), 0, 2**bits - 1) >> (bits - 8)).astype(np.uint8)


def bytes_of(sample: Sample) -> bytes:
    """The bytes of a sample, which still must be those that it was imported with."""
    raw = _read_bytes(sample.file)
    if len(sample.id) == 64 and hashlib.sha256(raw).hexdigest() != sample.id:
        raise DataError(f"{sample.file} {CHANGED}")
    return raw


def _threads() -> int:
    return min(8, os.cpu_count() or 1)


def in_threads(work: Callable[[Sample], T], samples: Sequence[Sample]) -> Iterator[list[T]]:
    """Results in order, a chunk at a time, so that no more than a chunk of them is ever held."""
    with ThreadPoolExecutor(_threads(), thread_name_prefix="images") as pool:
        for start in range(0, len(samples), _CHUNK):
            yield list(pool.map(work, samples[start : start + _CHUNK]))


# --- for people


class FilesAsSeen(Mapping[str, Path]):
    """Where browsers find the images of samples, by sample id, as the model is given them.

    These are the samples' own files, but for 16-bit images that use fewer bits, which browsers would show all but
    black: of one of these a PNG is written into ``folder`` when it is first asked for. Raises DataError then where the
    image is damaged.
    """

    def __init__(self, samples: Sequence[Sample], folder: Path) -> None:
        self._samples = {s.id: s for s in samples}
        self._folder = folder

    def __getitem__(self, sample_id: str) -> Path:
        sample = self._samples[sample_id]
        if sample.bits == 16 or not sample.file.is_file():  # whoever asks for files says which is missing
            return sample.file
        seen = self._folder / f"{sample.id}-{sample.bits}.png"
        if seen.is_file():
            return seen
        if not decoded(sample.file, sample.file, is_deep):
            return sample.file
        write_whole(seen, as_png(sample.file, sample.bits))
        return seen

    def __contains__(self, sample_id: object) -> bool:
        return sample_id in self._samples

    def __iter__(self) -> Iterator[str]:
        return iter(self._samples)

    def __len__(self) -> int:
        return len(self._samples)


def as_png(file: Path, bits: int = 16) -> bytes:
    """An image as the model is given it, as the bytes of a PNG; ``bits`` and errors as of ``read_image``."""
    from PIL import Image

    out = io.BytesIO()
    Image.fromarray(read_image(file, bits)).save(out, "PNG")
    return out.getvalue()


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
        for chunk in in_threads(self._decode, missing):
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
        for chunk in in_threads(self._decode, samples):
            for raw in chunk:
                found[done] = np.frombuffer(raw, dtype=np.uint8).reshape(found.shape[1:])
                done += 1
        return found

    def _decode(self, sample: Sample) -> bytes:
        def squashed(image: Image.Image) -> bytes:
            return squash(rgb(loaded(image, at_least=2 * self.size), sample.bits), self.size).tobytes()

        return decoded(bytes_of(sample), sample.file, squashed)


def squash(image: Image.Image, size: int) -> Pixels:
    """Resize to a square, whatever the shape: Lanczos (antialiased) where a side shrinks, bicubic where both grow."""
    from PIL import Image

    shrinks = max(image.size) > size
    kind = Image.Resampling.LANCZOS if shrinks else Image.Resampling.BICUBIC
    return np.asarray(image.resize((size, size), kind, reducing_gap=3.0 if shrinks else None))

"""Features and trunk activations of images, cached by content, backbone and size; both from one forward pass."""

from __future__ import annotations

import copy
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from curation.allocator import give_back_memory
from curation.backbone import Backbone
from curation.engine import Engine, LocalEngine
from curation.images import PixelCache, squash
from curation.records import Progress, Sample
from curation.runs import write_whole

if TYPE_CHECKING:
    import torch

#: Images in one forward pass: what is fastest on two cores, and what keeps a GPU busy.
BATCH = {"cpu": 32, "cuda": 256}
#: After how many images what was computed is made safe, so that a stopped run goes on there.
KEPT_EVERY = 256
#: The largest number in half precision: what is beyond it would come back as infinity.
_LARGEST_HALF = 65504

Features = npt.NDArray[np.float32]
Activations = npt.NDArray[np.float16]
#: From a network, images (n, side, side, 3) uint8 and a progress to rows (n, width).
Look = Callable[..., Features]


class RowFile:
    """Rows of one shape, appended to a memory-mapped file; the index, written after them, names those that are whole.

    ``shape`` is that of one row. May be deleted at any time.
    """

    def __init__(self, file: Path, shape: tuple[int, ...], dtype: Any) -> None:
        self._file = file
        self._index_file = file.with_suffix(".index")
        self._shape = shape
        self._dtype = np.dtype(dtype)
        self._row_bytes = int(np.prod(shape)) * self._dtype.itemsize

    def index(self) -> dict[str, int]:
        """Sample id to row."""
        try:
            ids = self._index_file.read_text(encoding="ascii").split()
            whole = self._file.stat().st_size // self._row_bytes
        except (OSError, UnicodeDecodeError):
            return {}
        return {sample_id: row for row, sample_id in enumerate(ids[:whole])}

    def append(self, ids: Sequence[str], rows: npt.NDArray[Any]) -> None:
        """Add rows, shape (ids, *shape), of ids that are not here yet; whole or not at all, one process at a time."""
        import filelock  # only when something is written

        self._file.parent.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(self._file.with_suffix(".lock")):
            index = self.index()
            new = [number for number, sample_id in enumerate(ids) if sample_id not in index]
            if not new:
                return
            with self._file.open("r+b" if self._file.exists() else "w+b") as out:
                out.truncate(len(index) * self._row_bytes)
                out.seek(0, os.SEEK_END)
                out.write(np.ascontiguousarray(rows[new], dtype=self._dtype).tobytes())
                out.flush()
                os.fsync(out.fileno())
            write_whole(self._index_file, "\n".join([*index, *(ids[number] for number in new)]) + "\n")

    def rows(self, ids: Sequence[str]) -> npt.NDArray[Any]:
        """These rows in this order, shape (ids, *shape)."""
        if not ids:
            return np.zeros((0, *self._shape), dtype=self._dtype)
        stored, wanted = self.mapped(ids)
        gathered: npt.NDArray[Any] = np.empty((len(ids), *self._shape), dtype=self._dtype)
        np.take(stored, wanted, axis=0, out=gathered)
        return gathered

    def mapped(self, ids: Sequence[str]) -> tuple[npt.NDArray[Any], npt.NDArray[np.int64]]:
        """All rows, not read yet, and which of them are these, shape (ids,); of one id at least."""
        index = self.index()
        stored = np.memmap(self._file, dtype=self._dtype, mode="r", shape=(len(index), *self._shape))
        return stored, np.array([index[sample_id] for sample_id in ids], dtype=np.int64)


class StoredRows:
    """Rows of several files side by side, read where they are asked for; indexed as an array (rows, dimensions) is.

    For reading in blocks what does not fit into memory. ``files`` hold rows of one dimension each, of all of ``ids``.
    """

    ndim = 2

    def __init__(self, files: Sequence[RowFile], ids: Sequence[str]) -> None:
        self._mapped = [file.mapped(ids) for file in files]
        self.shape = (len(ids), sum(stored.shape[1] for stored, _ in self._mapped))

    def __getitem__(self, rows: slice | npt.NDArray[np.int64]) -> npt.NDArray[Any]:
        return np.concatenate([stored[places[rows]] for stored, places in self._mapped], axis=1)


class FeatureStore:
    """Features and activations of samples by one backbone, computed once and kept under ``folder``.

    With ``views``, the folder of ``ViewFeatures``, what that one would compute at this size is computed here in the
    same pass, of train images, or with ``view_all`` of all. What is not cached yet is computed by the ``engine``, by
    default in this process.
    """

    def __init__(
        self,
        backbone: Backbone,
        pixels: PixelCache,
        folder: Path,
        *,
        views: Path | None = None,
        view_all: bool = False,
        engine: Engine | None = None,
    ) -> None:
        self._engine = engine or LocalEngine()
        self._view_all = view_all
        self.backbone = backbone
        self.pixels = pixels
        self.folder = folder
        self._view_folder = views
        self._folder = folder / f"{backbone.identity}-{backbone.size}"
        self._features = RowFile(self._folder / "features.f32", (backbone.feature_size,), np.float32)
        self._activations: RowFile | None = None
        self._batch = BATCH[backbone.device.type]

    def features(self, samples: Sequence[Sample], progress: Progress | None = None) -> Features:
        """Pooled features of shape (samples, feature_size), float32, in the order of ``samples``."""
        self._compute(samples, progress)
        return self._features.rows([s.id for s in samples])

    def activations(self, samples: Sequence[Sample], progress: Progress | None = None) -> Activations:
        """Trunk activations of shape (samples, ...), float16, in the order of ``samples``."""
        self._compute(samples, progress)
        return self._activation_file().rows([s.id for s in samples])

    def encode(self, images: npt.NDArray[np.uint8]) -> tuple[Features, Activations]:
        """Features and activations of images (n, size, size, 3) uint8, not cached."""
        batches = (images[start : start + self._batch] for start in range(0, len(images), self._batch))
        parts = [_forward(self.backbone, batch) for batch in batches]
        if not parts:
            empty = np.zeros((0, self.backbone.feature_size), dtype=np.float32)
            return empty, np.zeros((0, *self._activation_shape()), dtype=np.float16)
        return np.concatenate([p[0] for p in parts]), np.concatenate([p[1] for p in parts])

    @cached_property
    def _shared_views(self) -> RowFile | None:
        """Where to keep what labels are judged by; ``None`` where they are not judged by images of this size."""
        backbone = self.backbone
        if self._view_folder is None or backbone.division is None or backbone.size != _sides(backbone.size)[0]:
            return None  # smaller views may be of turned images
        if not hasattr(backbone.model, "forward_intermediates"):
            return None
        noise = np.random.default_rng(0).integers(0, 256, (2, backbone.size, backbone.size, 3), dtype=np.uint8)
        features, activations, viewed = _with_mirror(backbone, noise)
        expected = _forward(backbone, noise)
        close = np.allclose(features, expected[0], atol=1e-2) and np.allclose(activations, expected[1], atol=1e-2)
        return _view_file(self._view_folder, backbone, viewed.shape[1], turned=False) if close else None

    def _activation_shape(self) -> tuple[int, ...]:
        size = self.backbone.size
        return _forward(self.backbone, np.zeros((1, size, size, 3), dtype=np.uint8))[1].shape[1:]

    def _activation_file(self) -> RowFile:
        if self._activations is None:
            self._activations = RowFile(self._folder / "activations.f16", self._activation_shape(), np.float16)
        return self._activations

    def _compute(self, samples: Sequence[Sample], progress: Progress | None) -> None:
        activation_file = self._activation_file()
        known = self._features.index().keys() & activation_file.index().keys()
        missing = sorted({s.id: s for s in samples if s.id not in known}.values(), key=lambda s: s.split != "train")
        trained = len(missing) if self._view_all else sum(s.split == "train" for s in missing)
        shared = self._shared_views if trained else None
        self._compute_new(missing[:trained], shared, _Told(progress, "computing features", 0, len(missing)))
        self._compute_new(missing[trained:], None, _Told(progress, "computing features", trained, len(missing)))
        if missing:
            give_back_memory()

    def _compute_new(self, samples: Sequence[Sample], views: RowFile | None, told: _Told) -> None:
        """Compute and keep the features and activations of samples, and with ``views`` what labels are judged by."""
        batch = self._batch // 2 if views else self._batch
        work = _with_mirror if views else _without_views
        computed = self._engine.map(work, self.backbone, _batches(samples, batch, self.pixels.pixels))
        for chunk in _chunks(samples, KEPT_EVERY):
            parts = told.take(computed, chunk, batch)
            ids = [s.id for s in chunk]
            if views:
                views.append(ids, np.concatenate([part[2] for part in parts]))
            self._features.append(ids, np.concatenate([part[0] for part in parts]))
            self._activation_file().append(ids, np.concatenate([part[1] for part in parts]))


class _Told:
    """Takes results as they come, a batch each, and tells how far they are."""

    def __init__(self, progress: Progress | None, doing: str, done: int, total: int) -> None:
        self._progress = progress
        self._doing = doing
        self._done = done
        self._total = total

    def take(self, results: Iterator[Any], chunk: Sequence[Sample], batch: int) -> list[Any]:
        """The results of the batches of a chunk."""
        found = []
        for start in range(0, len(chunk), batch):
            found.append(next(results))
            self._done += min(batch, len(chunk) - start)
            if self._progress:
                self._progress(self._doing, self._done, self._total)
        return found


#: Sides of the views that labels are judged by, as shares of the first; multiples of 32 pixels.
VIEWS = (1.0, 5 / 7, 3 / 7)
_SMALLEST_VIEW = 224
_STAGES = 3
#: Channels of a stage whose correlations are taken, at most.
_CORRELATED = 128


class ViewFeatures:
    """Features to judge labels by: of each image at several sizes, at each the mean with its mirror image.

    Where images are ``rotation_invariant`` (they mean the same turned by half a circle: cells, tissue, satellites) the
    smaller views are the mean with the turned image: other looks, at the same cost.
    Small images are looked at enlarged as well: convolutional features pretrained at 224 px say more of an object that
    fills their field of view. Beside the pooled features stand mean, deviation and maximum over the image of the last
    three stages that the network tells (timm's ``forward_intermediates``), which channels go together, and what is in
    the middle (``part_tensors``): they know more of textures, parts and small defects, and cost nothing more. Costs 3.4
    forward passes at the first size, once; kept in half precision. Sizes that the network does not take (most
    transformers are made for one) are left out.
    """

    def __init__(
        self, backbone: Backbone, folder: Path, *, rotation_invariant: bool = False, engine: Engine | None = None
    ) -> None:
        self.backbone = backbone
        self.rotation_invariant = rotation_invariant
        self._folder = folder
        self._engine = engine or LocalEngine()

    @cached_property
    def views(self) -> list[tuple[Backbone, tuple[int, ...]]]:
        """The network at every size that it takes, largest first, and of how many features each part there is."""
        sides = _sides(self.backbone.size)
        found = [(view, widths) for side in sides if (widths := _widths(view := replace(self.backbone, size=side)))]
        return found or [(self.backbone, _widths(self.backbone))]

    @property
    def sizes(self) -> list[int]:
        """Sides of the views in pixels, largest first."""
        return [view.size for view, _ in self.views]

    @property
    def widths(self) -> tuple[int, ...]:
        """Of how many features each part is that stands in a row, in their order."""
        return tuple(width for _, widths in self.views for width in widths)

    def looking(self, *, rotation_invariant: bool) -> ViewFeatures:
        """The same views, looked at as a model was trained on them."""
        other = copy.copy(self)
        other.rotation_invariant = rotation_invariant
        return other

    def by(self, backbone: Backbone) -> ViewFeatures:
        """The same views by another network of the same architecture."""
        return ViewFeatures(backbone, self._folder, rotation_invariant=self.rotation_invariant, engine=self._engine)

    def forget(self, identity: str) -> None:
        """Delete what is kept of the views of any size by a network of this identity."""
        for seen in self._folder.glob(f"{identity}-*"):
            shutil.rmtree(seen, ignore_errors=True)

    @property
    def turned(self) -> list[bool]:
        """Of each view whether it is the mean with the turned image, no longer the mirrored one."""
        return [self.rotation_invariant and number > 0 for number in range(len(self.views))]

    def features(self, samples: Sequence[Sample], progress: Progress | None = None) -> Features:
        """Features of shape (samples, sum of the views' widths), float32, in the order of ``samples``."""
        self.compute(samples, progress)
        ids = [s.id for s in samples]
        return np.concatenate([file.rows(ids) for file in self._files()], axis=1, dtype=np.float32)

    def pooled(self, samples: Sequence[Sample], progress: Progress | None = None) -> Features:
        """Of the largest view the pooled features alone, (samples, its first width), float32, in the same order."""
        self.compute(samples, progress)
        of_largest = self._files()[0].rows([s.id for s in samples])
        return of_largest[:, : self.widths[0]].astype(np.float32)

    def stored(self, samples: Sequence[Sample], progress: Progress | None = None) -> StoredRows:
        """As ``features``, read from disk a block at a time; of one sample at least."""
        self.compute(samples, progress)
        return StoredRows(self._files(), [s.id for s in samples])

    def _files(self) -> list[RowFile]:
        ways = zip(self.views, self.turned, strict=True)
        return [_view_file(self._folder, view, sum(widths), turned) for (view, widths), turned in ways]

    def compute(self, samples: Sequence[Sample], progress: Progress | None = None) -> None:
        """Compute and keep the features of samples that there are none of yet."""
        for file, (view, _), turned in zip(self._files(), self.views, self.turned, strict=True):
            self._compute(file, view, samples, _viewed_turned if turned else _viewed, progress)

    def pixels(self, samples: Sequence[Sample], progress: Progress | None = None) -> npt.NDArray[np.uint8]:
        """Images at the size of the first view, (samples, side, side, 3) uint8, not kept: what copies are made from."""
        return self.decode(samples, self.sizes[0])

    def decode(self, samples: Sequence[Sample], size: int) -> npt.NDArray[np.uint8]:
        """Images at one of ``sizes``, (samples, size, size, 3) uint8, as the network sees them there."""
        return PixelCache(self._folder, size).decode(samples)

    def encode(self, images_at: Callable[[int], npt.NDArray[np.uint8]], *, mirror: bool = True) -> Features:
        """The same of images that are in no file, not cached; ``images_at`` gives them (n, side, side, 3) at a side.

        Without ``mirror`` they are looked at as they are alone, for half of the cost.
        """
        seen = [
            self._encode(view, images_at(view.size), (_viewed_turned if turned else _viewed) if mirror else _seen)
            for (view, _), turned in zip(self.views, self.turned, strict=True)
        ]
        return np.concatenate(seen, axis=1)

    def _encode(self, view: Backbone, images: npt.NDArray[np.uint8], look: Look) -> Features:
        batch = BATCH[view.device.type] // (1 if look is _seen else 2)
        batches = (images[start : start + batch] for start in range(0, len(images), batch))
        return np.concatenate(list(self._engine.map(look, view, batches)))

    def _compute(
        self, file: RowFile, view: Backbone, samples: Sequence[Sample], look: Look, progress: Progress | None
    ) -> None:
        known = file.index()
        missing = list({s.id: s for s in samples if s.id not in known}.values())
        images = PixelCache(self._folder, view.size)
        batch = BATCH[view.device.type] // 2
        computed = self._engine.map(look, view, _batches(missing, batch, images.decode))
        told = _Told(progress, f"computing features at {view.size} px", 0, len(missing))
        for chunk in _chunks(missing, KEPT_EVERY):
            file.append([s.id for s in chunk], np.concatenate(told.take(computed, chunk, batch)))
        if missing:
            give_back_memory()


def _sides(size: int) -> list[int]:
    """Sides of the views of a backbone at this size, largest first.

    >>> _sides(112), _sides(224)
    ([224, 160, 96], [224, 160, 96])
    """
    largest = max(size, _SMALLEST_VIEW)
    return list(dict.fromkeys(max(32, round(largest * share / 32) * 32) for share in VIEWS))


def _view_file(folder: Path, view: Backbone, width: int, turned: bool) -> RowFile:
    """Where the rows of a view are kept."""
    name = "seen-with-turned.f16" if turned else "seen-with-mirror.f16"
    return RowFile(_view_folder(folder, view) / name, (width,), np.float16)


def _view_folder(folder: Path, view: Backbone) -> Path:
    return folder / f"{view.identity}-{view.size}"


def _mean_of_both(rows: Features) -> Features:
    """The mean of images' rows and those of their changed images, which follow them; within half precision's range."""
    half = len(rows) // 2
    return np.asarray(np.clip((rows[:half] + rows[half:]) / 2, -_LARGEST_HALF, _LARGEST_HALF))


def _forward(backbone: Backbone, images: npt.NDArray[np.uint8]) -> tuple[Features, Activations]:
    """Features and activations of images (n, size, size, 3) uint8."""
    import torch

    with torch.inference_mode():
        activations = backbone.trunk(backbone.normalise(images))
        features = backbone.tail(activations)
        kept = activations.clamp(-_LARGEST_HALF, _LARGEST_HALF).to(torch.float16)
    return features.float().cpu().numpy(), kept.contiguous().cpu().numpy()


def _without_views(
    backbone: Backbone, images: npt.NDArray[np.uint8], _: Progress | None = None
) -> tuple[Features, Activations, None]:
    return *_forward(backbone, images), None


def _viewed(view: Backbone, images: npt.NDArray[np.uint8], _: Progress | None = None) -> Features:
    """The rows that ``ViewFeatures`` keeps of images, by the network at one size."""
    return _mean_of_both(_stages(view, np.concatenate([images, images[:, :, ::-1]])))


def _viewed_turned(view: Backbone, images: npt.NDArray[np.uint8], _: Progress | None = None) -> Features:
    """The same with the image turned by half a circle in place of the mirrored one."""
    return _mean_of_both(_stages(view, np.concatenate([images, images[:, ::-1, ::-1]])))


def _seen(view: Backbone, images: npt.NDArray[np.uint8], _: Progress | None = None) -> Features:
    """The same without the mirror images."""
    return np.asarray(np.clip(_stages(view, images), -_LARGEST_HALF, _LARGEST_HALF))


def _with_mirror(
    backbone: Backbone, images: npt.NDArray[np.uint8], _: Progress | None = None
) -> tuple[Features, Activations, Features]:
    """Features and activations of images, and the rows that ``ViewFeatures`` keeps, all from one pass."""
    import torch

    division = backbone.division
    assert division is not None
    seen: list[Any] = []
    first = division.tail_modules(backbone.model)[0]
    hook = first.register_forward_pre_hook(lambda _module, given: seen.append(given[0]))
    try:
        rows = _stages(backbone, np.concatenate([images, images[:, :, ::-1]]))
    finally:
        hook.remove()
    kept = seen[0][: len(images)].clamp(-_LARGEST_HALF, _LARGEST_HALF).to(torch.float16).contiguous().cpu().numpy()
    return rows[: len(images), : backbone.feature_size], kept, _mean_of_both(rows)


def _widths(view: Backbone) -> tuple[int, ...]:
    """Of how many features each part is that the network tells of images of this size; none if it takes none such."""
    try:
        return tuple(part.shape[1] for part in _parts(view, np.zeros((1, view.size, view.size, 3), dtype=np.uint8)))
    except (AssertionError, RuntimeError, ValueError):
        return ()


def _stages(view: Backbone, images: npt.NDArray[np.uint8]) -> Features:
    """The parts side by side; (n, sum of their widths)."""
    return np.concatenate(_parts(view, images), axis=1)


def _parts(view: Backbone, images: npt.NDArray[np.uint8]) -> list[Features]:
    """``part_tensors`` of images (n, side, side, 3) uint8; (n, width)."""
    import torch

    with torch.inference_mode():
        parts = part_tensors(view.model, view.normalise(images))
        return [np.asarray(part.float().cpu().numpy()) for part in parts]


def resized(images: npt.NDArray[np.uint8], side: int) -> npt.NDArray[np.uint8]:
    """Images (n, height, width, 3) uint8 squashed to another side, (n, side, side, 3), as those in files are."""
    from PIL import Image

    if images.shape[1:3] == (side, side):
        return images
    return np.stack([squash(Image.fromarray(image), side) for image in images])


def part_tensors(model: Any, inputs: torch.Tensor) -> list[torch.Tensor]:
    """Pooled features, then what the last stages say, where the network tells them; (n, width).

    Of each stage mean, deviation and maximum over the image; of the last but one how its channels go together; of the
    last two the mean of the image's middle.
    """
    if not hasattr(model, "forward_intermediates") or not hasattr(model, "forward_head"):
        return [model(inputs)]
    last, stages = model.forward_intermediates(inputs, indices=_STAGES, output_fmt="NCHW")
    parts = [model.forward_head(last, pre_logits=True)]
    for stage in stages:
        parts += [stage.mean(dim=(2, 3)), stage.std(dim=(2, 3), correction=0), stage.amax(dim=(2, 3))]
    return [*parts, *map(_correlations, stages[-2:-1]), *map(_middle, stages[-2:])]


def _correlations(stage: torch.Tensor) -> torch.Tensor:
    """Correlation over the image of each pair of channels, (n, pairs), of a stage (n, channels, height, width).

    Second-order pooling (Carreira et al., ECCV 2012) without the channels' own deviations, which stand elsewhere. Of
    more than ``_CORRELATED`` channels, so many, evenly spread.
    """
    import torch

    if stage.shape[1] > _CORRELATED:
        spread = np.linspace(0, stage.shape[1] - 1, _CORRELATED).round().astype(np.int64)
        stage = stage[:, torch.from_numpy(spread).to(stage.device)]
    flat = stage.flatten(2).float()
    flat = flat - flat.mean(dim=2, keepdim=True)
    flat = flat / flat.norm(dim=2, keepdim=True).clamp(min=1e-6)
    pairs = np.flatnonzero(np.triu(np.ones((stage.shape[1],) * 2, dtype=np.bool_), 1))
    found: torch.Tensor = (flat @ flat.transpose(1, 2)).flatten(1)
    return found[:, torch.from_numpy(pairs).to(stage.device)]


def _middle(stage: torch.Tensor) -> torch.Tensor:
    """Mean of each channel over the middle half of the image's height and width, (n, channels)."""
    top, left = stage.shape[2] // 4, stage.shape[3] // 4
    middle: torch.Tensor = stage[:, :, top : stage.shape[2] - top, left : stage.shape[3] - left]
    return middle.mean(dim=(2, 3))


def _chunks(samples: Sequence[Sample], size: int) -> Iterator[Sequence[Sample]]:
    for start in range(0, len(samples), size):
        yield samples[start : start + size]


def _batches(
    samples: Sequence[Sample], size: int, read: Callable[[Sequence[Sample]], npt.NDArray[np.uint8]]
) -> Iterator[npt.NDArray[np.uint8]]:
    """Images a batch at a time, read a chunk at a time and only when they are asked for; no batch spans two chunks."""
    for chunk in _chunks(samples, KEPT_EVERY):
        images = read(chunk)
        for start in range(0, len(chunk), size):
            yield images[start : start + size]

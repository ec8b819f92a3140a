"""Stability training: a copy of the network learns to see altered copies of images as the network sees the images.

Zheng, Song, Leung and Goodfellow, CVPR 2016. Features of a copy by the new network are drawn to those of its image by
the old one, and so are those of the image itself, so that other images are seen as before. No label takes part: images
without one teach as well, wrong labels do no harm, and what is seen of any image by the new network may judge its
label. What is drawn together are the views that labels are judged by, one size a step (``features.part_tensors``), each
part as much as another, dimensions standardised. Normalisation layers keep their statistics.
"""

from __future__ import annotations

import copy
import hashlib
import json
import math
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from curation.allocator import give_back_memory
from curation.backbone import deterministic, with_weights
from curation.copies import make_copies
from curation.errors import TrainingError
from curation.features import ViewFeatures, part_tensors, resized
from curation.fitting import CHECKPOINT_SECONDS, learning_rate
from curation.records import Augmentation, Progress, Sample
from curation.runs import write_whole

if TYPE_CHECKING:
    import torch

#: The network learns from so many images and their copies at most, and from no fewer.
MOST_TAUGHT, FEWEST_TAUGHT = 2_000, 50
#: About so many images and copies are shown to it in all.
SHOWN = 12_000
MOST_EPOCHS = 40
RATE = 1e-3
DECAY = 0.01
#: Networks that are kept with what they saw: an iteration tries three, and the one before may be asked for again.
MOST_KEPT = 4
#: Images and copies a step, and of 224 px how many at once (of others as many pixels): one's layers take some 100 MB.
TOGETHER = 32
AT_ONCE = {"cpu": 8, "cuda": 128}
#: The work of one look at an image, in floating-point operations, up to which a CPU teaches a network unasked: that of
#: EfficientNet-Lite0 at 224 px is 0.8e9, of ResNet-18 3.6e9.
MOST_WORK = 4e9

Pixels = npt.NDArray[np.uint8]
Halves = npt.NDArray[np.float16]


def steadied(
    views: ViewFeatures,
    samples: Sequence[Sample],
    copies: Augmentation,
    folder: Path,
    *,
    seed: int,
    progress: Progress | None = None,
) -> Path | None:
    """The file of a network that was taught by ``samples`` and copies that are made of them as ``copies`` says.

    ``None`` where the loss became no number, or a device has no memory for it. It is kept in ``folder`` by what it was
    made from, so that the same is not made twice; of the ones before, those that were used last (``MOST_KEPT`` in all),
    and what they saw. A run that was stopped goes on at the last epoch that was kept, until another is begun. Which
    samples ``copies`` names does not matter.
    """
    run = _run_of(views, samples, copies, seed)
    file, partial = folder / f"{run}.safetensors", folder / f"{run}.partial"
    if file.exists():
        os.utime(file)
        return file
    for stopped in set(folder.glob("*.partial")) - {partial}:
        stopped.unlink()
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder) as room:
        images = _Decoded(views, samples, room, progress)
        learned = _Lesson(views, list(samples), replace(copies, copies=1), seed, progress, images).learned(partial)
    if learned is None:
        return None
    write_whole(file, learned)
    partial.unlink(missing_ok=True)
    others = set(folder.glob("*.safetensors")) - {file}
    for old in sorted(others, key=lambda f: -f.stat().st_mtime)[MOST_KEPT - 1 :]:
        _forget(views, old)
    return file


def _forget(views: ViewFeatures, file: Path) -> None:
    """Delete a network, which may be of another architecture than the views', and what it saw."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(file), framework="np") as opened:
            views.forget((opened.metadata() or {})["identity"])
    except (SafetensorError, OSError, KeyError):
        pass  # nothing tells what it saw
    file.unlink()


def seen_by(views: ViewFeatures, file: Path) -> ViewFeatures:
    """The same views by the network in a file that ``steadied`` wrote."""
    from safetensors.numpy import load_file

    return views.by(with_weights(views.backbone, load_file(file)))


@dataclass(frozen=True)
class ViewTeacher:
    """Teaches the network that labels are judged by, and keeps what it makes in ``folder``; see ``repairing``.

    With ``deterministic`` a GPU computes the same each time. No network is taught whose look at an image takes more
    than ``most_work`` floating-point operations, a number or ``None`` for any.
    """

    views: ViewFeatures
    folder: Path
    deterministic: bool = False
    most_work: float | None = None

    def taught(
        self, samples: Sequence[Sample], copies: Augmentation, seed: int, progress: Progress | None = None
    ) -> Path | None:
        """The file of a network that the first ``MOST_TAUGHT`` samples teach; ``None`` below ``FEWEST_TAUGHT``.

        ``None`` as well where it is too much work, or does not learn. Raises TrainingError where it can't learn
        deterministically, but is to.
        """
        if len(samples) < FEWEST_TAUGHT or (self.most_work is not None and work_of(self.views) > self.most_work):
            return None
        try:
            with deterministic(self.deterministic):
                return steadied(self.views, samples[:MOST_TAUGHT], copies, self.folder, seed=seed, progress=progress)
        except RuntimeError as error:
            if not self.deterministic or "deterministic" not in str(error):
                raise
            raise TrainingError(
                f"{self.views.backbone.name} can't be taught by a recipe deterministically on "
                f"{self.views.backbone.device.type}; set slices.stability = 'off' or training.deterministic = false"
            ) from error

    def seen_by(self, file: Path) -> ViewFeatures:
        """The views by the network in a file."""
        return seen_by(self.views, file)


def work_of(views: ViewFeatures) -> float:
    """Floating-point operations of one look at an image, of the largest view."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    view = views.views[0][0]
    image = np.zeros((1, view.size, view.size, 3), dtype=np.uint8)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        view.model(view.normalise(image))
    return float(counter.get_total_flops())


def _run_of(views: ViewFeatures, samples: Sequence[Sample], copies: Augmentation, seed: int) -> str:
    """What a network is made from, as one hash."""
    import torch

    backbone = views.backbone
    how = [backbone.device.type, torch.are_deterministic_algorithms_enabled(), seed]
    made_of = [backbone.identity, views.sizes, views.rotation_invariant, how]
    made_of += [[s.id for s in samples], copies.name, repr(copies.transform), SHOWN, RATE]
    return hashlib.sha256(json.dumps(made_of).encode()).hexdigest()[:16]


class _Decoded:
    """Samples at the size of the first view, decoded once: each is shown up to ``MOST_EPOCHS`` times."""

    def __init__(
        self, views: ViewFeatures, samples: Sequence[Sample], room: IO[bytes], progress: Progress | None
    ) -> None:
        self._row_of = {s.id: row for row, s in enumerate(samples)}
        side = views.sizes[0]
        self._images: Pixels = np.memmap(room, dtype=np.uint8, mode="w+", shape=(len(samples), side, side, 3))
        for start in range(0, len(samples), TOGETHER):
            some = slice(start, start + TOGETHER)
            self._images[some] = views.pixels(samples[some])
            if progress:
                progress("reading images", min(start + TOGETHER, len(samples)), len(samples))

    def pixels(self, samples: Sequence[Sample]) -> Pixels:
        """Of shape (samples, side, side, 3)."""
        return np.asarray(self._images[[self._row_of[s.id] for s in samples]])


@dataclass(eq=False)
class _Lesson:
    """What one network is taught by."""

    views: ViewFeatures
    samples: list[Sample]
    copies: Augmentation
    seed: int
    progress: Progress | None
    images: _Decoded
    at_once: float = 0

    def learned(self, partial: Path) -> bytes | None:
        """The network's weights as safetensors; ``None`` where the loss became no number or memory is too small."""
        import torch
        from safetensors.torch import save

        self.at_once = AT_ONCE[self.views.backbone.device.type]
        model = copy.deepcopy(self.views.backbone.model).eval()  # normalisation keeps its statistics
        trained = list(model.requires_grad_(True).parameters())
        optimizer = torch.optim.AdamW(trained, lr=RATE, weight_decay=DECAY)
        wanted = self.views.features(self.samples, self.progress).astype(np.float16)
        scales = [self._scale_of(wanted, number) for number in range(len(self.views.views))]
        epochs = min(max(round(SHOWN / (2 * len(self.samples))), 1), MOST_EPOCHS)
        steps_an_epoch = math.ceil(2 * len(self.samples) / TOGETHER)
        kept = time.monotonic()
        begun = _resume(partial, model, optimizer)
        for epoch in range(begun, epochs):
            rng = np.random.default_rng([self.seed, epoch])
            done, losses = epoch * steps_an_epoch, list[torch.Tensor]()
            for images, mirrored, rows in self._batches(epoch, rng):
                rate = learning_rate(done, epochs * steps_an_epoch)
                for group in optimizer.param_groups:
                    group["lr"] = RATE * rate
                number = int(rng.integers(len(scales)))
                loss = self._gradient(model, number, images, mirrored, wanted[rows], *scales[number])
                if loss is None:
                    return None
                losses.append(loss)
                torch.nn.utils.clip_grad_norm_(trained, 1.0)
                optimizer.step()
                done += 1
                if self.progress:
                    shown = min(done, (epoch + 1) * steps_an_epoch)
                    self.progress("teaching the network to see past the recipe", shown, epochs * steps_an_epoch)
            if not math.isfinite(float(sum(losses))):  # looked at once an epoch: each look makes a device wait
                partial.unlink(missing_ok=True)
                return None
            if epoch + 1 < epochs and time.monotonic() - kept > CHECKPOINT_SECONDS:
                _keep(partial, model, optimizer, epoch + 1)
                kept = time.monotonic()
        give_back_memory()
        arrays = {name: tensor.cpu().contiguous() for name, tensor in model.state_dict().items()}
        identity = with_weights(self.views.backbone, {name: tensor.numpy() for name, tensor in arrays.items()}).identity
        return save(arrays, metadata={"identity": identity})

    def _batches(
        self, epoch: int, rng: np.random.Generator
    ) -> Iterator[tuple[Pixels, npt.NDArray[np.bool_], npt.NDArray[np.int64]]]:
        """Images with as many copies, (2n, side, side, 3), which of them to mirror, and whose they are; (2n,)."""
        planned = [(self.copies, epoch, int(row)) for row in rng.permutation(len(self.samples))]
        half = TOGETHER // 2
        for made, rows in make_copies(self.images, self.samples, planned, self.seed):
            images = self.images.pixels([self.samples[row] for row in rows])
            for start in range(0, len(rows), half):
                some = slice(start, start + half)
                both = np.concatenate([images[some], made[some]])
                yield both, rng.random(len(both)) < 0.5, np.tile(rows[some], 2)

    def _scale_of(self, wanted: Halves, number: int) -> tuple[slice, npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """Of a view the columns, and of each what its differences are multiplied with and count, (columns,).

        What differs by next to nothing from image to image, beside the others of its part, tells rounding.
        """
        of_views = [widths for _, widths in self.views.views]
        start = sum(map(sum, of_views[:number]))
        columns = slice(start, start + sum(of_views[number]))
        deviation = wanted[:, columns].std(axis=0, dtype=np.float32)
        widths = np.array(of_views[number])
        usual = np.repeat([part.mean() for part in np.split(deviation, np.cumsum(widths)[:-1])], widths)
        counts = np.repeat(1 / widths / len(widths), widths).astype(np.float32)
        return columns, (1 / np.maximum(deviation, 0.01 * usual + 1e-6)).astype(np.float32), counts

    def _gradient(
        self, model: Any, number: int, images: Pixels, mirrored: npt.NDArray[np.bool_], wanted: Halves,
        columns: slice, scale: npt.NDArray[np.float32], counts: npt.NDArray[np.float32],
    ) -> torch.Tensor | None:  # fmt: skip
        """Leave the gradient of ``_loss`` in the model, of as many images at once as memory holds; returns the loss.

        ``None`` where memory holds not even two.
        """
        import torch

        while True:
            model.zero_grad(set_to_none=True)
            losses, count = [], max(2, int(self.at_once * (224 / self.views.sizes[number]) ** 2))
            try:
                for start in range(0, len(images), count):
                    some = slice(start, start + count)
                    part = len(images[some]) / len(images)
                    loss = part * self._loss(
                        model, number, images[some], mirrored[some], wanted[some], columns, scale, counts
                    )
                    loss.backward()  # type: ignore[no-untyped-call]  # torch has no types here
                    losses.append(loss.detach())
                return torch.stack(losses).sum()
            except torch.OutOfMemoryError:
                if count == 2:
                    return None
                self.at_once /= 2
            torch.cuda.empty_cache()

    def _loss(
        self, model: Any, number: int, images: Pixels, mirrored: npt.NDArray[np.bool_], wanted: Halves,
        columns: slice, scale: npt.NDArray[np.float32], counts: npt.NDArray[np.float32],
    ) -> torch.Tensor:  # fmt: skip
        """How far what the model sees of images, (n, side, side, 3), is from what is wanted, (n, all columns)."""
        import torch

        view = self.views.views[number][0]
        inputs = view.normalise(resized(images, view.size))
        way = (2, 3) if self.views.turned[number] else (3,)
        flips = torch.from_numpy(mirrored).to(inputs.device)[:, None, None, None]
        inputs = torch.where(flips, inputs.flip(way), inputs).contiguous(memory_format=torch.channels_last)
        device = inputs.device.type
        with torch.autocast(device, dtype=torch.bfloat16, enabled=device == "cuda"):
            parts = part_tensors(model, inputs)
        seen = torch.cat([part.float() for part in parts], dim=1)
        there, times, weights = (torch.from_numpy(np.asarray(a, dtype=np.float32)).to(inputs.device)
                                 for a in (wanted[:, columns], scale, counts))  # fmt: skip
        return ((((seen - there) * times) ** 2) * weights).sum(dim=1).mean()


def _keep(partial: Path, model: Any, optimizer: Any, epochs: int) -> None:
    """Write all that the next epoch needs, whole or absent."""
    from safetensors.torch import save

    tensors = {f"model.{name}": tensor.cpu().contiguous() for name, tensor in model.state_dict().items()}
    for number, values in optimizer.state_dict()["state"].items():
        tensors |= {f"adam.{number}.{key}": value.detach().cpu().contiguous() for key, value in values.items()}
    write_whole(partial, save(tensors, metadata={"epochs": str(epochs)}))


def _resume(partial: Path, model: Any, optimizer: Any) -> int:
    """Take up what ``_keep`` wrote; returns after how many epochs, 0 where there is nothing, or nothing whole."""
    from safetensors import SafetensorError, safe_open

    if not partial.exists():
        return 0
    try:
        with safe_open(str(partial), framework="pt") as opened:
            tensors = {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118 — not a mapping
            epochs = int((opened.metadata() or {})["epochs"])
    except (SafetensorError, OSError, KeyError, ValueError):
        return 0
    of_model = {key.removeprefix("model."): v for key, v in tensors.items() if key.startswith("model.")}
    state: dict[int, dict[str, Any]] = {}
    for key, value in tensors.items():
        if key.startswith("adam."):
            _, number, name = key.split(".")
            state.setdefault(int(number), {})[name] = value
    model.load_state_dict(of_model)
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    return epochs

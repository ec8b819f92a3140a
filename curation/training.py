"""Fine-tuning: the head first, then the last blocks at a lower rate, on activations of the frozen trunk computed once.

Head first and then deeper (LP-FT: Kumar et al., ICLR 2022) keeps the pretrained features from being distorted. The best
epoch is chosen on a seeded part of the train rows that neither head nor blocks are trained on; weights are averaged
over the steps. Normalisation layers keep their pretrained statistics. Nothing here sees a holdout row.

On CUDA the whole network is trained, in bf16 and on images that live on the device, flipped and cropped there, with a
lower rate for each earlier layer. On a CPU, a network that can't be divided gets a head only.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from curation.backbone import describe_device
from curation.config import TrainingSettings
from curation.errors import DataError, TrainingError
from curation.features import FeatureStore
from curation.fitting import Fit
from curation.networks import READ, Labels, Network, Placed, Rows, begin_head, fresh_network, log_loss, softmax
from curation.records import Augmentation, Predictions, Progress, Sample
from curation.runs import write_whole

VALIDATION_SHARE = 0.12


@dataclass(eq=False)
class FineTuned:
    """A fine-tuned network: a copy of the backbone's model with what was trained of it, and a head.

    ``temperature`` divides the logits so that the validation rows are most likely. ``history`` has one entry an epoch,
    ``seconds`` is how long the training took, ``words`` says what ran on which device.
    """

    network: Network
    class_ids: tuple[str, ...]
    temperature: float
    history: list[dict[str, float]]
    seconds: float
    words: str

    def predict(self, samples: Sequence[Sample], progress: Progress | None = None) -> Predictions:
        """Class probabilities in the order of ``samples``; folds are -1, for none of them was trained on."""
        probabilities = softmax(self.network.read(self.network.inputs(samples, progress)) / self.temperature)
        return Predictions(
            tuple(s.id for s in samples), self.class_ids, probabilities, np.full(len(samples), -1, dtype=np.int64)
        )

    def save(self, file: Path) -> None:
        """Write what was trained and what is needed to use it as safetensors, whole or absent."""
        from safetensors.torch import save

        backbone = self.network.store.backbone
        about = {
            "class_ids": self.class_ids,
            "backbone": backbone.name,
            "identity": backbone.identity,
            "size": backbone.size,
            "whole": self.network.whole,
            "temperature": self.temperature,
            "history": self.history,
            "words": self.words,
        }
        # One entry: safetensors writes several in any order, and the same model must be the same file.
        metadata = {"curation": json.dumps(about)}
        write_whole(file, save(self.network.tensors(), metadata=metadata))


def load_fine_tuned(file: Path, store: FeatureStore) -> FineTuned:
    """A model that ``FineTuned.save`` wrote; raises DataError for another file, or one made with another backbone."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(file), framework="pt") as opened:
            about = json.loads((opened.metadata() or {})["curation"])
            tensors = {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118 — not a mapping
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise DataError(f"{file} is no fine-tuned model ({error}); train again with `curate run`") from None
    if (about["identity"], about["size"]) != (store.backbone.identity, store.backbone.size):
        raise DataError(
            f"{file} was trained on {about['backbone']} at {about['size']} px with other weights; use those"
        )
    class_ids = tuple(about["class_ids"])
    network = fresh_network(store, len(class_ids), about["whole"])
    network.restore(tensors)
    network.model.eval()
    return FineTuned(network, class_ids, about["temperature"], about["history"], 0.0, about["words"])


def fine_tune(
    store: FeatureStore,
    samples: Sequence[Sample],
    labels: Labels,
    class_ids: tuple[str, ...],
    *,
    settings: TrainingSettings,
    seed: int,
    augmentations: Sequence[Augmentation] = (),
    checkpoint: Path | None = None,
    progress: Progress | None = None,
    whole: bool | None = None,
) -> FineTuned:
    """Fine-tune the store's backbone on ``samples``; ``labels`` has shape (samples,), columns of ``class_ids``.

    ``whole`` says whether the whole network is trained, on images, or only its last blocks, on cached activations;
    ``None`` means whole on CUDA only. The same seed gives the same weights on a CPU. With ``checkpoint``, a file
    without suffix, a run that was stopped goes on at the last epoch that was kept, to the same end. Raises
    TrainingError for fewer than two classes, or where the loss is no number any more.
    """
    began = time.perf_counter()
    if len(samples) != len(labels):
        raise TrainingError(f"{len(samples)} samples were given {len(labels)} labels; give one label a sample")
    if len(np.unique(labels)) < 2:
        raise TrainingError("training needs at least two classes; add labeled images of another class")
    on_cuda = store.backbone.device.type == "cuda"
    network = fresh_network(store, len(class_ids), on_cuda if whole is None else whole)
    held = validation_rows(labels, seed)
    begin_head(network.head, store.features(samples, progress)[~held], labels[~held])
    inputs = network.inputs(samples, progress)
    extra, copied = _augmented(network, samples, augmentations, seed, progress)
    epochs = settings.epochs or _epochs(len(samples), network.whole)
    run = _run_of(network, samples, labels, augmentations, settings, seed)
    fit = Fit(network, settings, seed, checkpoint, run, progress)
    # Validation rows and their augmented copies stay out of the training of this run; they set the temperature.
    kept = np.flatnonzero(~np.concatenate([held, held[copied]]))
    rows = Placed([inputs, extra] if len(extra) else [inputs], store.backbone.device)
    history = fit.run(rows, np.concatenate([labels, labels[copied]]), kept, np.flatnonzero(held), epochs)
    temperature = _temperature(network.read(inputs[held]), labels[held])
    seconds = time.perf_counter() - began
    return FineTuned(network, class_ids, temperature, history, seconds, _words(network, len(kept), fit, history))


def _words(network: Network, rows: int, fit: Fit, history: list[dict[str, float]]) -> str:
    backbone = network.store.backbone
    trained = "all of" if network.whole else "the last blocks and a head of" if backbone.split else "a head on"
    parts = f", in parts of {fit.part} for want of memory" if fit.part < fit.settings.batch_size else ""
    device = describe_device(str(backbone.device)).partition(":")[0]
    return f"fine-tuned {trained} {backbone.name} on {rows:,} images, {len(history)} epochs{parts}; {device}"


def _run_of(
    network: Network, samples: Sequence[Sample], labels: Labels, augmentations: Sequence[Augmentation],
    settings: TrainingSettings, seed: int,
) -> str:  # fmt: skip
    """What a run is made of, as one hash: a checkpoint of another run is of no use."""
    backbone = network.store.backbone
    made_of = [backbone.identity, backbone.size, network.whole, seed, repr(settings), [s.id for s in samples]]
    made_of += [labels.tolist(), [(a.name, a.sample_ids, a.copies) for a in augmentations]]
    return hashlib.sha256(json.dumps(made_of).encode()).hexdigest()


def _epochs(rows: int, whole: bool = False) -> int:
    """More epochs for fewer rows: about 6,000 images seen, 4 to 20 epochs; three times as many for a whole network."""
    epochs = int(min(20, max(4, round(6_000 / max(rows, 1)))))
    return 3 * epochs if whole else epochs


def validation_rows(labels: Labels, seed: int) -> npt.NDArray[np.bool_]:
    """A seeded eighth of the rows of each class that has at least 9, (samples,)."""
    rng = np.random.default_rng(seed)
    held = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels).tolist():
        members = np.flatnonzero(labels == label)
        held[rng.permutation(members)[: int(len(members) * VALIDATION_SHARE)]] = True
    return held


def _augmented(
    network: Network,
    samples: Sequence[Sample],
    augmentations: Sequence[Augmentation],
    seed: int,
    progress: Progress | None,
) -> tuple[Rows, Labels]:
    """Augmented copies as the network is fed with them, and the row of the sample that each was made from."""
    row_of = {s.id: row for row, s in enumerate(samples)}
    made = [
        (a, number, row_of[s]) for a in augmentations for number in range(a.copies) for s in a.sample_ids if s in row_of
    ]
    found: list[Rows] = []
    for start in range(0, len(made), READ):
        some = made[start : start + READ]
        pixels = network.store.pixels.pixels([samples[row] for _, _, row in some])
        images = [a.transform(np.array(p), seed + 7919 * n + row) for (a, n, row), p in zip(some, pixels, strict=True)]
        found.append(network.encode(np.stack(images)))
        if progress:
            progress("computing augmented images", start + len(some), len(made))
    rows = np.array([row for _, _, row in made], dtype=np.int64)
    return (np.concatenate(found) if found else np.zeros(0)), rows


def _temperature(logits: npt.NDArray[np.float64], labels: Labels) -> float:
    """What to divide logits by so that the labels are most likely; 1 where there are no rows to tell."""
    from scipy.optimize import minimize_scalar

    if len(labels) < 20:
        return 1.0
    found = minimize_scalar(lambda t: log_loss(logits / math.exp(t), labels), bounds=(-1.5, 1.5), method="bounded")
    return float(math.exp(found.x))

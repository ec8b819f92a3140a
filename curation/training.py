"""Fine-tuning: the head first, then the last blocks at a lower rate, on activations of the frozen trunk computed once.

Head first and then deeper (LP-FT: Kumar et al., ICLR 2022) keeps the pretrained features from being distorted; weights
are averaged over the steps. A seeded part of the train rows, on which nothing is trained, chooses the head's strength,
the epoch, how far to go from the pretrained weights to the trained ones (WiSE-FT: Wortsman et al., CVPR 2022), and
whether to go at all or keep the head alone. A later iteration goes the way that the one before went, fine-tuned or a
head, unless the other is shown to be better: what changes from one to the next should be the data. So that wrong labels
are not memorised, targets are mixed with what a head says that has not seen them, the more, the more often it errs
(soft bootstrapping: Reed et al., 2015). Normalisation layers keep their pretrained statistics. No holdout row is seen.

On CUDA the whole network is trained, in bf16 and on images that live on the device, flipped and cropped there, with a
lower rate for each earlier layer. On a CPU, a network that can't be divided gets a head only.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from curation.allocator import give_back_memory
from curation.backbone import deterministic, device_name
from curation.config import TrainingSettings
from curation.copies import balanced, make_copies, plan_copies, weights_with_copies
from curation.errors import DataError, TrainingError
from curation.features import FeatureStore
from curation.fitting import Crew, Fit
from curation.networks import (
    FEW,
    Labels,
    Network,
    Placed,
    Rows,
    Targets,
    calibrated_loss,
    fresh_network,
    head_weights,
    losses_of,
    set_head,
    softmax,
    temperature_of,
)  # fmt: skip
from curation.records import Augmentation, Predictions, Progress, Sample
from curation.runs import write_whole

VALIDATION_SHARE = 0.12
#: Strengths of the logistic head that may be chosen, weakest first.
STRENGTHS = (0.01, 0.03, 0.1, 0.3)
#: How far from the weights before training to those after it the model may lie.
SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)
#: Standard errors by which another way than the last iteration's must do better to be taken.
SURE = 2.0
#: Parts of the train rows, each judged by a head that learnt from the others.
FOLDS = 3

Features = npt.NDArray[np.float32]
Losses = npt.NDArray[np.float64]


@dataclass(eq=False)
class FineTuned:
    """A fine-tuned network: a copy of the backbone's model with what was trained of it, and a head.

    ``temperature`` divides the logits so that the validation rows are most likely. ``history`` has one entry an epoch,
    ``seconds`` is how long the training took, ``words`` says what ran on which device, ``rows`` is how many rows an
    epoch had, ``share`` how far the weights went from the pretrained ones (0: the head alone is new), ``losses`` the
    log loss of each row of the part set apart (none where that is too small).
    """

    network: Network
    class_ids: tuple[str, ...]
    temperature: float
    history: list[dict[str, float]]
    seconds: float
    words: str
    rows: int = 0
    share: float = 1.0
    losses: Losses = field(default_factory=lambda: np.zeros(0))

    def predict(self, samples: Sequence[Sample], progress: Progress | None = None) -> Predictions:
        """Class probabilities in the order of ``samples``; folds are -1, for none of them was trained on."""
        probabilities = softmax(self.network.read(self.network.inputs(samples, progress)) / self.temperature)
        return Predictions(
            tuple(s.id for s in samples), self.class_ids, probabilities, np.full(len(samples), -1, dtype=np.int64)
        )

    def save(self, file: Path) -> None:
        """Write what was trained and what is needed to use it as safetensors, whole or absent."""
        import torch
        from safetensors.torch import save

        backbone = self.network.store.backbone
        about = {
            "class_ids": self.class_ids,
            "backbone": backbone.name,
            "identity": backbone.identity,
            "size": backbone.size,
            "whole": self.network.whole,
            "temperature": self.temperature,
            "share": self.share,
            "history": self.history,
            "words": self.words,
        }
        # One entry: safetensors writes several in any order, and the same model must be the same file.
        metadata = {"curation": json.dumps(about)}
        write_whole(file, save({**self.network.tensors(), "losses": torch.tensor(self.losses)}, metadata=metadata))


def load_fine_tuned(file: Path, store: FeatureStore) -> FineTuned:
    """A model that ``FineTuned.save`` wrote; raises DataError for another file, or one made with another backbone."""
    found = read_model(file)
    if found is None or "whole" not in found[0]:
        raise DataError(f"{file} is no fine-tuned model; train again with `curate run`")
    about, tensors = found
    if (about["identity"], about["size"]) != (store.backbone.identity, store.backbone.size):
        raise DataError(
            f"{file} was trained on {about['backbone']} at {about['size']} px with other weights; use those"
        )
    class_ids = tuple(about["class_ids"])
    network = fresh_network(store, len(class_ids), about["whole"])
    network.restore(tensors)
    network.model.eval()
    return FineTuned(
        network, class_ids, about["temperature"], about["history"], 0.0, about["words"], share=about.get("share", 1.0),
        losses=tensors["losses"].numpy() if "losses" in tensors else np.zeros(0),
    )  # fmt: skip


def about_model(file: Path) -> dict[str, Any] | None:
    """What a model's file says of itself, its tensors not read; ``None`` where it is not there or something else."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(file), framework="np") as opened:
            about: dict[str, Any] = json.loads((opened.metadata() or {})["curation"])
    except (SafetensorError, OSError, KeyError, ValueError):
        return None
    return about


def read_model(file: Path) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """What a model's file says of itself, and its tensors; ``None`` where it is not there or something else."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(file), framework="pt") as opened:
            about = json.loads((opened.metadata() or {})["curation"])
            return about, {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118 — not a mapping
    except (SafetensorError, OSError, KeyError, ValueError):
        return None


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
    before: Path | None = None,
    crew: Crew | None = None,
    groups: Labels | None = None,
) -> FineTuned:
    """Fine-tune the store's backbone on ``samples``; ``labels`` has shape (samples,), columns of ``class_ids``.

    ``whole`` says whether the whole network is trained, on images, or only its last blocks, on cached activations;
    ``None`` means whole on CUDA only. The same seed gives the same weights on a CPU. With ``checkpoint``, a file
    without suffix, a run that was stopped goes on at the last epoch that was kept, to the same end. ``before`` is the
    file of the last iteration's model: the way that it went is kept (fine-tuned, or a head alone) unless the other is
    shown to be better, and ``settings.warm_start`` begins with its weights, where it is of the same backbone and
    classes. Raises TrainingError for fewer than two classes, where the loss is no number any more, or where
    ``settings.deterministic`` asks for what the network's operations can't give. ``crew`` is given where several
    processes train together (``parallel.py``). ``groups`` (samples,) are numbers of images of which the part set apart
    has all or none; each by itself where none are given.
    """
    try:
        with deterministic(settings.deterministic):
            return _fine_tuned(
                store,
                samples,
                labels,
                class_ids,
                settings,
                seed,
                augmentations,
                checkpoint,
                progress,
                whole,
                before,
                crew,
                groups,
            )
    except RuntimeError as error:
        if not settings.deterministic or "deterministic" not in str(error):
            raise
        operation = str(error).split(" does not have")[0]
        raise TrainingError(
            f"{store.backbone.name} can't be trained deterministically on {store.backbone.device.type}: {operation} "
            "gives another result each time; set training.deterministic = false, or choose another backbone or device"
        ) from error


def _fine_tuned(
    store: FeatureStore, samples: Sequence[Sample], labels: Labels, class_ids: tuple[str, ...],
    settings: TrainingSettings, seed: int, augmentations: Sequence[Augmentation], checkpoint: Path | None,
    progress: Progress | None, whole: bool | None, before: Path | None, crew: Crew | None, groups: Labels | None,
) -> FineTuned:  # fmt: skip
    began = time.perf_counter()
    if len(samples) != len(labels):
        raise TrainingError(f"{len(samples)} samples were given {len(labels)} labels; give one label a sample")
    if len(np.unique(labels)) < 2:
        raise TrainingError("training needs at least two classes; add labeled images of another class")
    on_cuda = store.backbone.device.type == "cuda"
    network = fresh_network(store, len(class_ids), on_cuda if whole is None else whole)
    held = validation_rows(labels, seed, groups)
    features = store.features(samples, progress)
    strength = _begin_head(network.head, features, labels, held)
    inputs = network.inputs(samples, progress)
    extra, copied = _augmented(network, samples, augmentations, seed, progress)
    of = np.concatenate([np.arange(len(samples)), copied])
    counts = weights_with_copies(samples, augmentations)
    kept = np.flatnonzero(~held[of])  # validation rows and their augmented copies stay out of the training of this run
    targets = _targets(features, labels, held, len(class_ids), strength, settings, seed)[of]
    targets *= counts[:, None].astype(np.float32)
    earlier = _earlier(network, before) if before else None
    warm = before if settings.warm_start and earlier else None
    gone = earlier[0].get("share", 1.0) if earlier else None
    run = _run_of(network, samples, labels, augmentations, settings, seed, warm, gone)
    fit = Fit(network, settings, seed, checkpoint, run, progress, crew)
    warmed = earlier is not None and settings.warm_start and list(class_ids) == earlier[0].get("class_ids")
    if earlier and warmed:
        network.restore(earlier[1])
    rows = Placed([inputs, extra] if len(extra) else [inputs], store.backbone.device)
    epochs = settings.epochs or _epochs(len(samples), network.whole)
    history = fit.run(rows, targets, labels[of], kept, np.flatnonzero(held), epochs)
    share, temperature, losses = _how_far(fit, inputs[held], labels[held], gone)
    if share == 0:
        everything = np.concatenate([features, network.features(extra)]) if len(extra) else features
        counts = balanced(counts, labels[of]) if settings.class_balance else counts
        set_head(network.head, head_weights(everything, labels[of], len(class_ids), strength, counts))
    give_back_memory()
    seconds = time.perf_counter() - began
    words = _words(network, len(kept), fit, history, share, warmed)
    return FineTuned(network, class_ids, temperature, history, seconds, words, len(kept), share, losses)


def _begin_head(head: Any, features: Features, labels: Labels, held: npt.NDArray[np.bool_]) -> float:
    """Begin with the logistic solution of the strength that the held rows like best; returns the strength.

    Too few held rows choose nothing: then it is the first of ``STRENGTHS``.
    """
    best, chosen = math.inf, STRENGTHS[0]
    for strength in STRENGTHS if held.sum() >= FEW else STRENGTHS[:1]:
        weights = head_weights(features[~held], labels[~held], head.out_features, strength)
        loss = calibrated_loss(features[held] @ weights[0].T + weights[1], labels[held]) if held.any() else 0.0
        if loss >= best:
            break
        best, chosen = loss, strength
        set_head(head, weights)
    return chosen


def _targets(
    features: Features, labels: Labels, held: npt.NDArray[np.bool_], n_classes: int, strength: float,
    settings: TrainingSettings, seed: int,
) -> Targets:  # fmt: skip
    """What is to be learnt, (samples, classes): the label, mixed with what a head says that has not seen it.

    The share of the latter is how often it errs. Then it is smoothed, and only then weighed: the smoothing of a loss
    would not be weighed with it, so that rows that count less would be smoothed more. With ``class_balance`` the rows
    of each class weigh the same together.
    """
    certain = np.eye(n_classes, dtype=np.float32)[labels]
    told = certain.copy()
    rows = np.flatnonzero(~held)
    for part in range(FOLDS):
        fold = np.random.default_rng(seed).permutation(len(rows)) % FOLDS == part
        seen, unseen = rows[~fold], rows[fold]
        if len(np.unique(labels[seen])) > 1:
            weights = head_weights(features[seen], labels[seen], n_classes, strength)
            told[unseen] = softmax(features[unseen] @ weights[0].T + weights[1])
    errs = float((told[rows].argmax(axis=1) != labels[rows]).mean())
    smoothing = settings.label_smoothing
    targets = (1 - smoothing) * ((1 - errs) * certain + errs * told) + smoothing / n_classes
    if settings.class_balance:
        counts = np.bincount(labels[rows], minlength=n_classes)
        targets *= (len(rows) / (np.count_nonzero(counts) * np.maximum(counts, 1)))[labels][:, None]
    return np.asarray(targets, dtype=np.float32)


def _how_far(fit: Fit, inputs: Rows, labels: Labels, gone: float | None = None) -> tuple[float, float, Losses]:
    """Put into the network the weights that the held rows like best; how far they went, temperature, losses there.

    0 is the head alone on the pretrained network. ``gone`` is how far the last iteration's model went: the way from
    there to the other side of 0 is taken only where that does better by more than two standard errors, so that two
    iterations do not differ by the chance of a few held rows.
    """
    after = fit.weights()
    if len(labels) < FEW:
        return 1.0, 1.0, np.zeros(0)
    tried: dict[float, tuple[float, Any]] = {}
    for share in SHARES:
        fit.between(share, after)
        logits = fit.network.read(inputs)
        temperature = temperature_of(logits, labels)
        tried[share] = temperature, losses_of(logits / temperature, labels)

    def best_of(shares: Sequence[float]) -> float:
        return min(shares, key=lambda share: float(tried[share][1].mean()))

    best = best_of(SHARES)
    if gone is not None:
        same = best_of([share for share in SHARES if (share > 0) == (gone > 0)])
        gained = tried[same][1] - tried[best][1]
        best = best if gained.mean() > SURE * gained.std(ddof=1) / math.sqrt(len(gained)) else same
    fit.between(best, after)
    return best, *tried[best]


def _earlier(network: Network, file: Path) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """What a model's file says of itself, and its tensors, where it is of the same backbone, trained alike."""
    found = read_model(file)
    backbone = network.store.backbone
    same = (backbone.identity, backbone.size, network.whole)
    if found is None or tuple(found[0].get(key) for key in ("identity", "size", "whole")) != same:
        return None
    return found


def _words(network: Network, rows: int, fit: Fit, history: list[dict[str, float]], share: float, warmed: bool) -> str:
    backbone = network.store.backbone
    parts = f", in parts of {fit.part} for want of memory" if fit.part < fit.settings.batch_size else ""
    parts += fit.compiled
    device = device_name(str(backbone.device))
    if share == 0:
        return (
            f"a head alone on {backbone.name}: on {rows:,} images, {len(history)} epochs{parts}, fine-tuning was not "
            f"shown to do better; {device}"
        )
    trained = "all of" if network.whole else "the last blocks and a head of" if backbone.split else "a head on"
    way = f", {share:.0%} of the way" if share < 1 else ""
    begun = ", from the last iteration's weights" if warmed else ""
    return (
        f"fine-tuned {trained} {backbone.name} on {rows:,} images, {len(history)} epochs{way}{begun}{parts}; {device}"
    )


def _run_of(
    network: Network, samples: Sequence[Sample], labels: Labels, augmentations: Sequence[Augmentation],
    settings: TrainingSettings, seed: int, warm: Path | None, gone: float | None,
) -> str:  # fmt: skip
    """What a run is made of, as one hash: a checkpoint of another run is of no use."""
    backbone = network.store.backbone
    made_of = [backbone.identity, backbone.size, network.whole, seed, repr(settings), [s.id for s in samples]]
    made_of += [labels.tolist(), [(a.name, a.sample_ids, a.copies) for a in augmentations]]
    made_of += [hashlib.sha256(warm.read_bytes()).hexdigest() if warm else None, gone]
    return hashlib.sha256(json.dumps(made_of).encode()).hexdigest()


def _epochs(rows: int, whole: bool = False) -> int:
    """More epochs for fewer rows: about 6,000 images seen, 4 to 20 epochs; three times as many for a whole network."""
    epochs = int(min(20, max(4, round(6_000 / max(rows, 1)))))
    return 3 * epochs if whole else epochs


def validation_rows(labels: Labels, seed: int, groups: Labels | None = None) -> npt.NDArray[np.bool_]:
    """A seeded eighth of the rows of each class that has at least 9, (samples,).

    Of ``groups`` (samples,), those with the same number, it has all rows or none: frames of one scene on both sides
    would make whoever learns them by heart look good. A group that holds half of a class or more stays out of it.
    """
    rng = np.random.default_rng(seed)
    held = np.zeros(len(labels), dtype=bool)
    of_group = np.arange(len(labels)) if groups is None else np.unique(groups, return_inverse=True)[1]
    order = np.argsort(of_group, kind="stable")
    rows_of = np.split(order, np.cumsum(np.bincount(of_group))[:-1])
    sizes = np.bincount(labels)
    taken = np.zeros_like(sizes)
    for label in np.unique(labels).tolist():
        members = np.flatnonzero(labels == label)
        for row in rng.permutation(members).tolist():
            if taken[label] >= int(len(members) * VALIDATION_SHARE):
                break
            own = rows_of[of_group[row]]
            with_it = taken + np.bincount(labels[own], minlength=len(sizes))
            if not held[row] and (2 * with_it < sizes)[labels[own]].all():
                held[own], taken = True, with_it
    return held


def _augmented(
    network: Network,
    samples: Sequence[Sample],
    augmentations: Sequence[Augmentation],
    seed: int,
    progress: Progress | None,
) -> tuple[Rows, Labels]:
    """Augmented copies as the network is fed with them, and the row of the sample that each was made from."""
    planned = plan_copies(samples, augmentations)
    found: list[Rows] = []
    of: list[Labels] = []
    for images, rows in make_copies(network.store.pixels, samples, planned, seed):
        found.append(network.encode(images))
        of.append(rows)
        if progress:
            progress("computing augmented images", sum(map(len, of)), len(planned))
    return (np.concatenate(found), np.concatenate(of)) if found else (np.zeros(0), np.zeros(0, dtype=np.int64))

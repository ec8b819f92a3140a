"""Fine-tuning: the head first, then the last blocks at a lower rate, on activations of the frozen trunk computed once.

Head first and then deeper (LP-FT: Kumar et al., ICLR 2022) keeps the pretrained features from being distorted. The best
epoch is chosen on a seeded part of the train rows that are not trained on; weights are averaged over the steps.
Normalisation layers keep their pretrained statistics. Nothing here sees a holdout row.

On CUDA the same activations live on the device and training runs in bf16. Networks that can't be divided get a head.
"""

from __future__ import annotations

import copy
import hashlib
import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from curation.backbone import describe_device
from curation.config import TrainingSettings
from curation.errors import DataError, TrainingError
from curation.features import FeatureStore
from curation.records import Augmentation, Predictions, Progress, Sample
from curation.runs import write_whole

if TYPE_CHECKING:
    import torch

Labels = npt.NDArray[np.int64]

HEAD_RATE = 1e-3
TAIL_RATE = 1e-4
AVERAGING = 0.98
#: A checkpoint is written at the end of an epoch when the last one is older than this; it costs a flush to disk.
CHECKPOINT_SECONDS = 10.0
VALIDATION_SHARE = 0.12


@dataclass(eq=False)
class FineTuned:
    """A fine-tuned network: a copy of the backbone's model with its trained tail, and a head.

    ``temperature`` divides the logits so that the validation rows are most likely. ``history`` has one entry an epoch.
    """

    store: FeatureStore
    class_ids: tuple[str, ...]
    model: Any
    head: Any
    temperature: float
    history: list[dict[str, float]]
    seconds: float
    words: str

    def predict(self, samples: Sequence[Sample], progress: Progress | None = None) -> Predictions:
        """Class probabilities in the order of ``samples``; folds are -1, for none of them was trained on."""
        activations = self.store.activations(samples, progress)
        logits = _logits(self.store, self.model, self.head, activations) / self.temperature
        exponents = np.exp(logits - logits.max(axis=1, keepdims=True)) if len(logits) else logits
        probabilities = exponents / exponents.sum(axis=1, keepdims=True) if len(logits) else logits
        return Predictions(
            tuple(s.id for s in samples), self.class_ids, probabilities, np.full(len(samples), -1, dtype=np.int64)
        )

    def save(self, file: Path) -> None:
        """Write tail, head and what is needed to use them as safetensors, whole or absent."""
        from safetensors.torch import save

        backbone = self.store.backbone
        about = {
            "class_ids": self.class_ids,
            "backbone": backbone.name,
            "identity": backbone.identity,
            "size": backbone.size,
            "temperature": self.temperature,
            "history": self.history,
            "words": self.words,
        }
        # One entry: safetensors writes several in any order, and the same model must be the same file.
        metadata = {"curation": json.dumps(about)}
        write_whole(file, save(_tensors(self.store, self.model, self.head), metadata=metadata))


def load_fine_tuned(file: Path, store: FeatureStore) -> FineTuned:
    """A model that ``FineTuned.save`` wrote; raises DataError where it was made with another backbone."""
    from safetensors import safe_open

    with safe_open(str(file), framework="pt") as opened:
        about = json.loads(opened.metadata()["curation"])
        tensors = {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118 — not a mapping
    if (about["identity"], about["size"]) != (store.backbone.identity, store.backbone.size):
        raise DataError(
            f"{file} was trained on {about['backbone']} at {about['size']} px with other weights; use those"
        )
    class_ids = tuple(about["class_ids"])
    model, head = _fresh(store, len(class_ids))
    _restore(store, model, head, tensors)
    return FineTuned(store, class_ids, model, head, about["temperature"], about["history"], 0.0, about["words"])


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
) -> FineTuned:
    """Fine-tune the store's backbone on ``samples``; ``labels`` has shape (samples,), columns of ``class_ids``.

    The same seed gives the same weights on a CPU. With ``checkpoint``, a file without suffix, a run that was stopped
    goes on at the last whole epoch to the same end. Raises TrainingError for fewer than two classes, or where the loss
    is no number any more.
    """
    import torch

    began = time.perf_counter()
    if len(samples) != len(labels):
        raise TrainingError(f"{len(samples)} samples were given {len(labels)} labels; give one label a sample")
    if len(np.unique(labels)) < 2:
        raise TrainingError("training needs at least two classes; add labeled images of another class")
    features = store.features(samples, progress)
    activations = store.activations(samples, progress)
    extra, rows = _augmented(store, samples, augmentations, seed, progress)
    model, head = _fresh(store, len(class_ids))
    _begin_head(head, features, labels)
    epochs = settings.epochs or _epochs(len(samples))
    run = _run_of(store, samples, labels, augmentations, settings, seed)
    fit = _Fit(store, model, head, settings, seed, checkpoint, run, progress)
    inputs = torch.from_numpy(np.concatenate([activations, extra]) if len(extra) else activations)
    targets = torch.from_numpy(np.concatenate([labels, labels[rows]]) if len(extra) else labels)
    # Validation rows and their augmented copies stay out of the training of this run; they set the temperature.
    held = validation_rows(labels, seed)
    kept = np.flatnonzero(~np.concatenate([held, held[rows]]))
    history = fit.run(inputs, targets, kept, np.flatnonzero(held), epochs)
    logits = _logits(store, model, head, activations[held])
    temperature = _temperature(logits, labels[held])
    words = (
        f"fine-tuned the last blocks and a head of {store.backbone.name} on {len(kept):,} images, "
        f"{len(history)} epochs; {describe_device(str(store.backbone.device))}"
    )
    return FineTuned(store, class_ids, model, head, temperature, history, time.perf_counter() - began, words)


def _run_of(
    store: FeatureStore, samples: Sequence[Sample], labels: Labels, augmentations: Sequence[Augmentation],
    settings: TrainingSettings, seed: int,
) -> str:  # fmt: skip
    """What a run is made of, as one hash: a checkpoint of another run is of no use."""
    made_of = [store.backbone.identity, store.backbone.size, seed, repr(settings), [s.id for s in samples]]
    made_of += [labels.tolist(), [(a.name, a.sample_ids, a.copies) for a in augmentations]]
    return hashlib.sha256(json.dumps(made_of).encode()).hexdigest()


def _epochs(rows: int) -> int:
    """More epochs for fewer rows: about 9,000 images seen, at least 4 and at most 20 epochs."""
    return int(min(20, max(4, round(9_000 / max(rows, 1)))))


def validation_rows(labels: Labels, seed: int) -> npt.NDArray[np.bool_]:
    """A seeded eighth of the rows of each class that has at least 8, (samples,)."""
    rng = np.random.default_rng(seed)
    held = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels).tolist():
        members = np.flatnonzero(labels == label)
        held[rng.permutation(members)[: int(len(members) * VALIDATION_SHARE)]] = True
    return held


def _fresh(store: FeatureStore, n_classes: int) -> tuple[Any, Any]:
    import torch

    backbone = store.backbone
    model = copy.deepcopy(backbone.model) if backbone.division else backbone.model
    head = torch.nn.Linear(backbone.feature_size, n_classes).to(backbone.device)
    return model, head


def _tail_modules(store: FeatureStore, model: Any) -> list[Any]:
    return store.backbone.division.tail_modules(model) if store.backbone.division else []


def _tensors(store: FeatureStore, model: Any, head: Any) -> dict[str, torch.Tensor]:
    found = {f"head.{k}": v.detach().cpu().contiguous() for k, v in head.state_dict().items()}
    for number, module in enumerate(_tail_modules(store, model)):
        found |= {f"tail.{number}.{k}": v.detach().cpu().contiguous() for k, v in module.state_dict().items()}
    return found


def _restore(store: FeatureStore, model: Any, head: Any, tensors: Mapping[str, torch.Tensor]) -> None:
    def of(prefix: str) -> dict[str, torch.Tensor]:
        return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}

    head.load_state_dict(of("head."))
    for number, module in enumerate(_tail_modules(store, model)):
        module.load_state_dict(of(f"tail.{number}."))


def _begin_head(head: Any, features: npt.NDArray[np.float32], labels: Labels) -> None:
    """Set the head to the logistic solution on standardised features, folded back to raw ones."""
    import torch
    from sklearn.linear_model import LogisticRegression

    mean, deviation = features.mean(axis=0), features.std(axis=0) + 1e-6
    length = float(np.sqrt(features.shape[1])) / 10
    fitted = LogisticRegression(C=0.01, max_iter=100, tol=1e-3).fit((features - mean) / deviation / length, labels)
    present = fitted.classes_.astype(int)
    weight = np.zeros((head.out_features, features.shape[1]))
    bias = np.full(head.out_features, -5.0)
    if len(present) == 2:
        weight[present] = [-fitted.coef_[0] / 2, fitted.coef_[0] / 2]
        bias[present] = [-fitted.intercept_[0] / 2, fitted.intercept_[0] / 2]
    else:
        weight[present], bias[present] = fitted.coef_, fitted.intercept_
    weight = weight / deviation / length
    bias = bias - weight @ mean
    with torch.no_grad():
        head.weight.copy_(torch.from_numpy(weight))
        head.bias.copy_(torch.from_numpy(bias))


def _augmented(
    store: FeatureStore,
    samples: Sequence[Sample],
    augmentations: Sequence[Augmentation],
    seed: int,
    progress: Progress | None,
) -> tuple[npt.NDArray[np.float16], Labels]:
    """Activations of augmented copies, and the row of the sample that each was made from."""
    row_of = {s.id: row for row, s in enumerate(samples)}
    images, rows = [], []
    for augmentation in augmentations:
        chosen = [row_of[s] for s in augmentation.sample_ids if s in row_of]
        pixels = store.pixels.pixels([samples[row] for row in chosen])
        for number in range(augmentation.copies):
            for row, image in zip(chosen, pixels, strict=True):
                images.append(augmentation.transform(np.array(image), seed + 7919 * number + row))
                rows.append(row)
    if not images:
        return np.zeros((0,), dtype=np.float16), np.zeros(0, dtype=np.int64)
    found = []
    for start in range(0, len(images), 128):
        found.append(store.encode(np.stack(images[start : start + 128]))[1])
        if progress:
            progress("computing augmented images", min(start + 128, len(images)), len(images))
    return np.concatenate(found), np.array(rows, dtype=np.int64)


class _Fit:
    """One training run: its networks, rates, average of weights, and checkpoint."""

    def __init__(
        self,
        store: FeatureStore,
        model: Any,
        head: Any,
        settings: TrainingSettings,
        seed: int,
        checkpoint: Path | None,
        run: str,
        progress: Progress | None,
    ) -> None:
        self.store = store
        self.model = model
        self.head = head
        self.settings = settings
        self.seed = seed
        self.checkpoint = checkpoint.with_suffix(".safetensors") if checkpoint else None
        self.run_id = run
        self.saved = time.monotonic()
        self.progress = progress
        self.device = store.backbone.device
        self.trained = [*head.parameters()]
        groups = [{"params": [*head.parameters()], "lr": settings.head_rate or HEAD_RATE}]
        for module in _tail_modules(store, model):
            module.requires_grad_(True)
            parameters = [*module.parameters()]
            self.trained += parameters
            groups.append({"params": parameters, "lr": settings.tail_rate or TAIL_RATE})
        self.groups = groups

    def run(
        self, inputs: torch.Tensor, targets: torch.Tensor, kept: Labels, held: Labels, epochs: int
    ) -> list[dict[str, float]]:
        """Train for up to ``epochs`` and leave the averaged weights of the best epoch in the networks."""
        import torch

        self.model.eval()  # normalisation keeps its pretrained statistics; the tail's weights still learn
        optimizer = torch.optim.AdamW(self.groups, weight_decay=self.settings.weight_decay)
        steps = epochs * math.ceil(len(kept) / self.settings.batch_size)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, steps))
        average = [p.detach().clone() for p in self.trained]
        history: list[dict[str, float]] = []
        best = self._keep(average)
        best_loss = self._validation_loss(inputs, targets, held)
        saved = self._resume(optimizer)
        if saved is not None:
            average, best, best_loss, history = saved
            schedule.last_epoch = len(history) * math.ceil(len(kept) / self.settings.batch_size)
            for group in optimizer.param_groups:
                group["lr"] = group["initial_lr"] * _rate(schedule.last_epoch, steps)
        for epoch in range(len(history), epochs):
            order = np.random.default_rng([self.seed, epoch]).permutation(kept)
            torch.manual_seed(self.seed * 1000 + epoch)  # for dropout in tails that have it
            loss = self._epoch(inputs, targets, order, optimizer, schedule, average, epoch)
            live = self._swap(average)
            validation = self._validation_loss(inputs, targets, held)
            if not len(held) or validation < best_loss:
                best_loss, best = validation, self._keep(self.trained)
            self._swap(live)
            history.append({"epoch": epoch + 1, "loss": loss, "validation_loss": validation})
            self._save(optimizer, average, best, best_loss, history)
            if self.progress:
                self.progress("fine-tuning", epoch + 1, epochs)
        self._swap(best)
        if self.checkpoint:
            self.checkpoint.unlink(missing_ok=True)
        return history

    def _epoch(
        self, inputs: torch.Tensor, targets: torch.Tensor, order: Labels, optimizer: Any, schedule: Any,
        average: list[torch.Tensor], epoch: int,
    ) -> float:  # fmt: skip
        import torch

        total = 0.0
        size = self.settings.batch_size
        for start in range(0, len(order), size):
            rows = torch.from_numpy(order[start : start + size])
            batch = _on_device(inputs[rows], self.device)
            with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.device.type == "cuda"):
                logits = self.head(self.store.backbone.tail(batch, self.model))
                loss = torch.nn.functional.cross_entropy(
                    logits.float(), targets[rows].to(self.device), label_smoothing=self.settings.label_smoothing
                )
            if not torch.isfinite(loss):
                rate = schedule.get_last_lr()[0]
                raise TrainingError(
                    f"the loss became {float(loss.detach())} in epoch {epoch + 1} at rate {rate:.2g}; "
                    "lower training.head_rate and training.tail_rate in curation.toml"
                )
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]  # torch has no types here
            torch.nn.utils.clip_grad_norm_(self.trained, 1.0)
            optimizer.step()
            schedule.step()
            with torch.no_grad():
                for mean, parameter in zip(average, self.trained, strict=True):
                    mean.lerp_(parameter, 1 - AVERAGING)
            total += float(loss.detach()) * len(rows)
        return total / max(len(order), 1)

    def _save(
        self, optimizer: Any, average: list[torch.Tensor], best: list[torch.Tensor], best_loss: float,
        history: list[dict[str, float]],
    ) -> None:  # fmt: skip
        """Write all that the next epoch needs, whole or absent, where it is time to."""
        if self.checkpoint is None or time.monotonic() - self.saved < CHECKPOINT_SECONDS:
            return
        self.saved = time.monotonic()
        from safetensors.torch import save

        state = optimizer.state_dict()["state"]
        tensors = {}
        for number, parameter in enumerate(self.trained):
            tensors[f"live.{number}"], tensors[f"mean.{number}"] = parameter.detach(), average[number]
            tensors[f"best.{number}"] = best[number]
            for key, value in state[number].items():
                tensors[f"adam.{number}.{key}"] = value
        whole = {key: value.cpu().clone().contiguous() for key, value in tensors.items()}
        about = {"run": self.run_id, "best_loss": repr(best_loss), "history": json.dumps(history)}
        write_whole(self.checkpoint, save(whole, metadata=about))

    def _resume(
        self, optimizer: Any
    ) -> tuple[list[torch.Tensor], list[torch.Tensor], float, list[dict[str, float]]] | None:
        """Take up a checkpoint of this very run: average, best weights, their loss, history; ``None`` without one."""
        if self.checkpoint is None or not self.checkpoint.exists():
            return None
        from safetensors import safe_open

        with safe_open(str(self.checkpoint), framework="pt", device=str(self.device)) as opened:
            about = opened.metadata()
            tensors = {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118 — not a mapping
        if about["run"] != self.run_id:
            return None  # of other labels, recipes or settings
        count = range(len(self.trained))
        self._swap([tensors[f"live.{n}"] for n in count])
        groups = optimizer.state_dict()["param_groups"]
        state = {n: {k.split(".")[2]: v for k, v in tensors.items() if k.startswith(f"adam.{n}.")} for n in count}
        optimizer.load_state_dict({"state": state, "param_groups": groups})
        return (
            [tensors[f"mean.{n}"] for n in count],
            [tensors[f"best.{n}"] for n in count],
            float(about["best_loss"]),
            json.loads(about["history"]),
        )

    def _validation_loss(self, inputs: torch.Tensor, targets: torch.Tensor, held: Labels) -> float:
        if not len(held):
            return 0.0
        logits = _logits(self.store, self.model, self.head, inputs[held].numpy())
        return _log_loss(logits, targets[held].numpy())

    def _keep(self, tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        return [t.detach().clone() for t in tensors]

    def _swap(self, tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Put these weights into the networks; returns those that were there."""
        import torch

        before = self._keep(self.trained)
        with torch.no_grad():
            for parameter, tensor in zip(self.trained, tensors, strict=True):
                parameter.copy_(tensor)
        return before


def _rate(step: int, steps: int) -> float:
    """A short rise, then a half cosine down to nothing."""
    rise = max(1, steps // 20)
    if step < rise:
        return (step + 1) / rise
    return 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1, steps - rise)))


def _logits(
    store: FeatureStore, model: Any, head: Any, activations: npt.NDArray[np.float16]
) -> npt.NDArray[np.float64]:
    import torch

    found = [np.zeros((0, head.out_features))]
    with torch.inference_mode():
        for start in range(0, len(activations), 256):
            batch = _on_device(torch.from_numpy(activations[start : start + 256]), store.backbone.device)
            found.append(head(store.backbone.tail(batch, model)).double().cpu().numpy())
    return np.concatenate(found)


def _on_device(batch: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Activations as the tail runs them fastest: float32, and channels last where they are maps."""
    import torch

    whole = batch.to(device).float()
    return whole.contiguous(memory_format=torch.channels_last) if whole.ndim == 4 else whole


def _log_loss(logits: npt.NDArray[np.float64], labels: Labels) -> float:
    shifted = logits - logits.max(axis=1, keepdims=True)
    return float((np.log(np.exp(shifted).sum(axis=1)) - shifted[np.arange(len(labels)), labels]).mean())


def _temperature(logits: npt.NDArray[np.float64], labels: Labels) -> float:
    """What to divide logits by so that the labels are most likely; 1 where there are no rows to tell."""
    from scipy.optimize import minimize_scalar

    if len(labels) < 20:
        return 1.0
    found = minimize_scalar(lambda t: _log_loss(logits / math.exp(t), labels), bounds=(-1.5, 1.5), method="bounded")
    return float(math.exp(found.x))

"""Fine-tuning: the head first, then the last blocks at a lower rate, on activations of the frozen trunk computed once.

Head first and then deeper (LP-FT: Kumar et al., ICLR 2022) keeps the pretrained features from being distorted. The best
epoch is chosen on a seeded part of the train rows that neither head nor blocks are trained on; weights are averaged
over the steps. Normalisation layers keep their pretrained statistics. Nothing here sees a holdout row.

On CUDA the whole network is trained, in bf16 and on images that live on the device, flipped and cropped there, with a
lower rate for each earlier layer. On a CPU, a network that can't be divided gets a head only.
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
from typing import TYPE_CHECKING, Any, cast

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
Rows = npt.NDArray[Any]

HEAD_RATE = 1e-3
TAIL_RATE = 5e-4
#: Of the rate of a layer, the next earlier one gets this much, where the whole network is trained.
LAYER_DECAY = 0.75
AVERAGING = 0.95
#: A checkpoint is written at the end of an epoch when the last one is older than this; it costs a flush to disk.
CHECKPOINT_SECONDS = 10.0
VALIDATION_SHARE = 0.12
#: Rows a batch where nothing is learnt from them.
READ = 256


@dataclass(eq=False)
class _Network:
    """A copy of the backbone's model, and a head; fed with activations of the trunk, or (``whole``) with images."""

    store: FeatureStore
    model: Any
    head: Any
    whole: bool

    def inputs(self, samples: Sequence[Sample], progress: Progress | None) -> Rows:
        """What the network is fed with, one row a sample: float16 activations, or uint8 images."""
        return (self.store.pixels.pixels if self.whole else self.store.activations)(samples, progress)

    def encode(self, images: npt.NDArray[np.uint8]) -> Rows:
        """The same for images (n, size, size, 3) that are no sample's."""
        return images if self.whole else self.store.encode(images)[1]

    def ready(self, rows: torch.Tensor) -> torch.Tensor:
        """Rows as the network runs them fastest: normalised or float32, and channels last where they are maps."""
        import torch

        if self.whole:
            return self.store.backbone.normalise_tensor(rows)
        rows = rows.float()
        return rows.contiguous(memory_format=torch.channels_last) if rows.ndim == 4 else rows

    def logits(self, batch: torch.Tensor) -> torch.Tensor:
        """Float32 logits (rows, classes) of rows that are ready."""
        import torch

        device = self.store.backbone.device.type
        with torch.autocast(device, dtype=torch.bfloat16, enabled=device == "cuda"):
            features = self.model(batch) if self.whole else self.store.backbone.tail(batch, self.model)
            return cast("torch.Tensor", self.head(features).float())

    def modules(self) -> list[Any]:
        """The parts of the model that are trained, in a fixed order."""
        if self.whole:
            return [self.model]
        division = self.store.backbone.division
        return division.tail_modules(self.model) if division else []

    def rates(self, settings: TrainingSettings) -> list[dict[str, Any]]:
        """The trained parameters in groups, each with its rate; makes them trainable."""
        tail_rate = settings.tail_rate or TAIL_RATE
        groups = [{"params": [*self.head.parameters()], "lr": settings.head_rate or HEAD_RATE}]
        for module in self.modules():
            module.requires_grad_(True)
        if not self.whole:
            return groups + [{"params": [*m.parameters()], "lr": tail_rate} for m in self.modules()]
        from timm.optim import param_groups_layer_decay  # type: ignore[attr-defined]  # timm has no types here

        layers = param_groups_layer_decay(self.model, settings.weight_decay, layer_decay=LAYER_DECAY)
        for layer in layers:
            rated = {"params": layer["params"], "lr": tail_rate * layer["lr_scale"]}
            groups.append(rated | {"weight_decay": layer["weight_decay"]})
        return groups

    def tensors(self) -> dict[str, torch.Tensor]:
        """Everything that training changed, by name."""
        found = {f"head.{k}": v.detach().cpu().contiguous() for k, v in self.head.state_dict().items()}
        for number, module in enumerate(self.modules()):
            found |= {f"tail.{number}.{k}": v.detach().cpu().contiguous() for k, v in module.state_dict().items()}
        return found

    def restore(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Take up what ``tensors`` gave."""

        def of(prefix: str) -> dict[str, torch.Tensor]:
            return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}

        self.head.load_state_dict(of("head."))
        for number, module in enumerate(self.modules()):
            module.load_state_dict(of(f"tail.{number}."))

    def read(self, rows: Rows) -> npt.NDArray[np.float64]:
        """Logits (rows, classes) of rows as ``inputs`` gives them."""
        import torch

        found = [np.zeros((0, self.head.out_features))]
        with torch.inference_mode():
            for start in range(0, len(rows), READ):
                some = torch.from_numpy(np.array(rows[start : start + READ])).to(self.store.backbone.device)
                found.append(self.logits(self.ready(some)).double().cpu().numpy())
        return np.concatenate(found)


def _fresh(store: FeatureStore, n_classes: int, whole: bool) -> _Network:
    import torch

    backbone = store.backbone
    model = copy.deepcopy(backbone.model) if backbone.division or whole else backbone.model
    head = torch.nn.Linear(backbone.feature_size, n_classes).to(backbone.device)
    return _Network(store, model, head, whole)


@dataclass(eq=False)
class FineTuned:
    """A fine-tuned network: a copy of the backbone's model with what was trained of it, and a head.

    ``temperature`` divides the logits so that the validation rows are most likely. ``history`` has one entry an epoch,
    ``seconds`` is how long the training took, ``words`` says what ran on which device.
    """

    network: _Network
    class_ids: tuple[str, ...]
    temperature: float
    history: list[dict[str, float]]
    seconds: float
    words: str

    def predict(self, samples: Sequence[Sample], progress: Progress | None = None) -> Predictions:
        """Class probabilities in the order of ``samples``; folds are -1, for none of them was trained on."""
        logits = self.network.read(self.network.inputs(samples, progress)) / self.temperature
        exponents = np.exp(logits - logits.max(axis=1, keepdims=True)) if len(logits) else logits
        probabilities = exponents / exponents.sum(axis=1, keepdims=True) if len(logits) else logits
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
    network = _fresh(store, len(class_ids), about["whole"])
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
    network = _fresh(store, len(class_ids), on_cuda if whole is None else whole)
    held = validation_rows(labels, seed)
    _begin_head(network.head, store.features(samples, progress)[~held], labels[~held])
    inputs = network.inputs(samples, progress)
    extra, copied = _augmented(network, samples, augmentations, seed, progress)
    epochs = settings.epochs or _epochs(len(samples), network.whole)
    run = _run_of(network, samples, labels, augmentations, settings, seed)
    fit = _Fit(network, settings, seed, checkpoint, run, progress)
    # Validation rows and their augmented copies stay out of the training of this run; they set the temperature.
    kept = np.flatnonzero(~np.concatenate([held, held[copied]]))
    rows = _Placed([inputs, extra] if len(extra) else [inputs], store.backbone.device)
    history = fit.run(rows, np.concatenate([labels, labels[copied]]), kept, np.flatnonzero(held), epochs)
    temperature = _temperature(network.read(inputs[held]), labels[held])
    seconds = time.perf_counter() - began
    return FineTuned(network, class_ids, temperature, history, seconds, _words(network, len(kept), fit, history))


def _words(network: _Network, rows: int, fit: _Fit, history: list[dict[str, float]]) -> str:
    backbone = network.store.backbone
    trained = "all of" if network.whole else "the last blocks and a head of" if backbone.split else "a head on"
    parts = f", in parts of {fit.part} for want of memory" if fit.part < fit.settings.batch_size else ""
    device = describe_device(str(backbone.device)).partition(":")[0]
    return f"fine-tuned {trained} {backbone.name} on {rows:,} images, {len(history)} epochs{parts}; {device}"


def _run_of(
    network: _Network, samples: Sequence[Sample], labels: Labels, augmentations: Sequence[Augmentation],
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
    network: _Network,
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


class _Placed:
    """Rows to draw batches from; on the device all at once where half of what is free there holds them."""

    def __init__(self, parts: Sequence[Rows], device: torch.device) -> None:
        import torch

        self.device = device
        self.host: Rows | None = parts[0] if len(parts) == 1 else np.concatenate(parts)
        self.there: torch.Tensor | None = None
        if device.type == "cuda" and self.host.nbytes < torch.cuda.mem_get_info(device)[0] / 2:
            self.there = torch.empty(
                self.host.shape, dtype=torch.from_numpy(np.array(self.host[:1])).dtype, device=device
            )
            for start in range(0, len(self.host), READ):
                self.there[start : start + READ] = torch.from_numpy(np.array(self.host[start : start + READ]))

    def take(self, rows: Labels) -> torch.Tensor:
        """These rows, on the device."""
        import torch

        if self.there is not None:
            return self.there[torch.from_numpy(rows).to(self.device)]
        assert self.host is not None
        return torch.from_numpy(np.array(self.host[rows])).to(self.device)


def _vary(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Images (n, 3, size, size), half of them mirrored and each cropped to 80 to 100 % of its side."""
    import torch

    n = len(images)
    scale = 0.8 + 0.2 * torch.rand(n, generator=generator)
    shift = (2 * torch.rand(n, 2, generator=generator) - 1) * (1 - scale)[:, None]
    mirror = torch.where(torch.rand(n, generator=generator) < 0.5, -1.0, 1.0)
    change = torch.zeros(n, 2, 3)
    change[:, 0, 0], change[:, 1, 1], change[:, :, 2] = scale * mirror, scale, shift
    grid = torch.nn.functional.affine_grid(change.to(images.device), list(images.shape), align_corners=False)
    varied = torch.nn.functional.grid_sample(images, grid, padding_mode="reflection", align_corners=False)
    return varied.contiguous(memory_format=torch.channels_last)


class _Fit:
    """One training run: its network, rates, average of weights, and checkpoint.

    ``part`` is how many rows go through the network at once; halved where the device's memory does not hold them.
    """

    def __init__(
        self,
        network: _Network,
        settings: TrainingSettings,
        seed: int,
        checkpoint: Path | None,
        run: str,
        progress: Progress | None,
    ) -> None:
        self.network = network
        self.settings = settings
        self.seed = seed
        self.checkpoint = checkpoint.with_suffix(".safetensors") if checkpoint else None
        self.run_id = run
        self.saved = time.monotonic()
        self.progress = progress
        self.part = settings.batch_size
        self.groups = network.rates(settings)
        self.trained = [p for group in self.groups for p in group["params"]]

    def run(self, rows: _Placed, labels: Labels, kept: Labels, held: Labels, epochs: int) -> list[dict[str, float]]:
        """Train for ``epochs`` and leave the averaged weights of the best epoch in the network."""
        import torch

        self.network.model.eval()  # normalisation keeps its pretrained statistics; the weights still learn
        optimizer = torch.optim.AdamW(self.groups, weight_decay=self.settings.weight_decay)
        steps_an_epoch = math.ceil(len(kept) / self.settings.batch_size)
        steps = epochs * steps_an_epoch
        average = self._keep(self.trained)
        history: list[dict[str, float]] = []
        best = self._keep(average)
        best_loss = self._validation_loss(rows, labels, held)
        saved = self._resume(optimizer)
        if saved is not None:
            average, best, best_loss, history = saved
        for epoch in range(len(history), epochs):
            loss = self._epoch(rows, labels, kept, optimizer, average, epoch, steps)
            live = self._swap(average)
            validation = self._validation_loss(rows, labels, held)
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
        self, rows: _Placed, labels: Labels, kept: Labels, optimizer: Any, average: list[torch.Tensor], epoch: int,
        steps: int,
    ) -> float:  # fmt: skip
        """One pass over the kept rows in an order of its own; returns the mean loss."""
        import torch

        order = np.random.default_rng([self.seed, epoch]).permutation(kept)
        generator = torch.Generator().manual_seed(self.seed * 1000 + epoch)
        torch.manual_seed(self.seed * 1000 + epoch)  # for dropout in tails that have it
        size = self.settings.batch_size
        total = torch.zeros((), device=self.network.store.backbone.device)
        step = epoch * math.ceil(len(order) / size)
        for start in range(0, len(order), size):
            for group in optimizer.param_groups:
                group["lr"] = group.setdefault("initial_lr", group["lr"]) * _rate(step, steps)
            batch = order[start : start + size]
            total += self._gradient(rows, labels, batch, optimizer, generator) * len(batch)
            torch.nn.utils.clip_grad_norm_(self.trained, 1.0)
            optimizer.step()
            with torch.no_grad():
                torch._foreach_lerp_(average, self.trained, 1 - _averaging(step))
            step += 1
        loss = float(total) / max(len(order), 1)  # looked at once an epoch: each look makes a device wait
        if not math.isfinite(loss):
            rate = optimizer.param_groups[0]["initial_lr"]
            raise TrainingError(
                f"the loss became {loss} in epoch {epoch + 1} at rate {rate:.2g}; "
                "lower training.head_rate and training.tail_rate in curation.toml"
            )
        return loss

    def _gradient(
        self, rows: _Placed, labels: Labels, batch: Labels, optimizer: Any, generator: torch.Generator
    ) -> torch.Tensor:
        """The gradient of the batch's mean loss, in as many parts as memory asks for; returns the loss."""
        import torch

        state = generator.get_state()
        while True:
            try:
                generator.set_state(state)
                optimizer.zero_grad(set_to_none=True)
                inputs = self.network.ready(rows.take(batch))
                inputs = _vary(inputs, generator) if self.network.whole else inputs
                targets = torch.from_numpy(labels[batch]).to(inputs.device)
                total = torch.zeros((), device=inputs.device)
                for start in range(0, len(batch), self.part):
                    part = slice(start, start + self.part)
                    loss = torch.nn.functional.cross_entropy(
                        self.network.logits(inputs[part]), targets[part], reduction="sum",
                        label_smoothing=self.settings.label_smoothing,
                    ) / len(batch)  # fmt: skip
                    loss.backward()  # type: ignore[no-untyped-call]  # torch has no types here
                    total += loss.detach()
                return total
            except torch.OutOfMemoryError as error:
                if self.part == 1:
                    raise TrainingError(
                        "the device's memory does not hold one image; choose a smaller backbone.size or device = 'cpu'"
                    ) from error
                self.part = min(self.part, len(batch)) // 2 or 1
            torch.cuda.empty_cache()

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

        with safe_open(str(self.checkpoint), framework="pt", device=str(self.network.store.backbone.device)) as opened:
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

    def _validation_loss(self, rows: _Placed, labels: Labels, held: Labels) -> float:
        if not len(held):
            return 0.0
        return _log_loss(self.network.read(rows.take(held).cpu().numpy()), labels[held])

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


def _averaging(step: int) -> float:
    """How much of the average stays at a step: less at first, so that it does not hang on to where it began."""
    return min(AVERAGING, (1 + step) / (10 + step))


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

"""A network to train: a copy of the backbone's model and a head, fed with activations of the trunk, or with images."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import numpy.typing as npt

from curation.config import TrainingSettings
from curation.features import FeatureStore
from curation.records import Progress, Sample

if TYPE_CHECKING:
    import torch

Labels = npt.NDArray[np.int64]
Rows = npt.NDArray[Any]
Targets = npt.NDArray[np.float32]

HEAD_RATE = 1e-3
TAIL_RATE = 5e-4
#: Of the rate of a layer, the next earlier one gets this much, where the whole network is trained.
LAYER_DECAY = 0.75
#: Fewer labels than this say nothing about a temperature, or about which of two models is better.
FEW = 20
#: Rows a batch where nothing is learnt from them.
READ = 256


@dataclass(eq=False)
class Network:
    """A copy of the backbone's model, and a head; fed with activations of the trunk, or (``whole``) with images."""

    store: FeatureStore
    model: Any
    head: Any
    whole: bool
    compiled: Any = None
    compiled_rows: int = 0

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
            return cast("torch.Tensor", self.head(self._features(batch)).float())

    def features(self, rows: Rows) -> npt.NDArray[np.float32]:
        """Pooled features (rows, dimensions), before the head, of rows as ``inputs`` gives them."""
        return np.asarray(self._through(rows, self._features, self.head.in_features), dtype=np.float32)

    def as_module(self) -> torch.nn.Module:
        """What is trained as one module: rows that are ready to logits."""
        import torch

        network = self

        class Whole(torch.nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.parts = torch.nn.ModuleList([network.head, *network.modules()])

            def forward(self, batch: torch.Tensor) -> torch.Tensor:
                return network.logits(batch)

        return Whole()

    def _features(self, batch: torch.Tensor) -> torch.Tensor:
        import torch

        if not self.whole:
            return self.store.backbone.tail(batch, self.model)
        fast = self.compiled is not None and torch.is_grad_enabled() and len(batch) == self.compiled_rows
        return cast("torch.Tensor", (self.compiled if fast else self.model)(batch))

    def compile(self, batch: torch.Tensor) -> str:
        """Run whole batches of this many rows through ``torch.compile`` from now on; returns why not, where it fails.

        A step is tried on ``batch``, rows that are ready: that is when compiling happens.
        """
        import torch

        self.compiled, self.compiled_rows = torch.compile(self.model, dynamic=False), len(batch)
        try:
            self.logits(batch).sum().backward()  # type: ignore[no-untyped-call]  # torch has no types here
        except (
            Exception
        ) as error:  # a missing compiler, an operation it does not know: each raises something of its own
            self.compiled = None
            return f"{type(error).__name__}"
        finally:
            self.model.zero_grad(set_to_none=True)
            self.head.zero_grad(set_to_none=True)
        return ""

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
        return self._through(rows, self.logits, self.head.out_features)

    def _through(self, rows: Rows, network: Any, width: int) -> npt.NDArray[np.float64]:
        import torch

        found = [np.zeros((0, width))]
        with torch.inference_mode():
            for start in range(0, len(rows), READ):
                some = torch.from_numpy(np.array(rows[start : start + READ])).to(self.store.backbone.device)
                found.append(network(self.ready(some)).double().cpu().numpy())
        return np.concatenate(found)


def fresh_network(store: FeatureStore, n_classes: int, whole: bool) -> Network:
    """A copy of the backbone that may change, and a head of ``n_classes`` that has learnt nothing yet."""
    import torch

    backbone = store.backbone
    model = copy.deepcopy(backbone.model) if backbone.division or whole else backbone.model
    head = torch.nn.Linear(backbone.feature_size, n_classes).to(backbone.device)
    return Network(store, model, head, whole)


def head_weights(
    features: npt.NDArray[np.float32],
    labels: Labels,
    n_classes: int,
    strength: float,
    counts: npt.NDArray[np.float64] | None = None,
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """The logistic solution on standardised features, folded back to raw ones: (classes, dimensions) and (classes,).

    ``counts`` (rows,) are what each row counts, 1 by default.
    """
    from sklearn.linear_model import LogisticRegression

    mean, deviation = features.mean(axis=0), features.std(axis=0) + 1e-6
    length = float(np.sqrt(features.shape[1])) / 10
    fitted = LogisticRegression(C=strength, max_iter=100, tol=1e-3)
    fitted.fit((features - mean) / deviation / length, labels, sample_weight=counts)
    present = fitted.classes_.astype(int)
    weight = np.zeros((n_classes, features.shape[1]))
    bias = np.full(n_classes, -5.0)
    if len(present) == 2:
        weight[present] = [-fitted.coef_[0] / 2, fitted.coef_[0] / 2]
        bias[present] = [-fitted.intercept_[0] / 2, fitted.intercept_[0] / 2]
    else:
        weight[present], bias[present] = fitted.coef_, fitted.intercept_
    weight = weight / deviation / length
    return weight, bias - weight @ mean


def set_head(head: Any, weights: tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]) -> None:
    """Give a linear layer these weights and biases."""
    import torch

    with torch.no_grad():
        head.weight.copy_(torch.from_numpy(weights[0]))
        head.bias.copy_(torch.from_numpy(weights[1]))


class Placed:
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


def temperature_of(logits: npt.NDArray[np.float64], labels: Labels) -> float:
    """What to divide logits by so that the labels are most likely; 1 where there are too few rows to tell."""
    from scipy.optimize import minimize_scalar

    if len(labels) < FEW:
        return 1.0
    found = minimize_scalar(lambda t: log_loss(logits / math.exp(t), labels), bounds=(-1.5, 1.5), method="bounded")
    return float(math.exp(found.x))


def calibrated_loss(logits: npt.NDArray[np.float64], labels: Labels) -> float:
    """``log_loss`` at the temperature that makes it least: what a change of scale alone can't win or lose."""
    return log_loss(logits / temperature_of(logits, labels), labels)


def log_loss(logits: npt.NDArray[np.float64], labels: Labels) -> float:
    """Mean negative log likelihood of ``labels`` (rows,) under ``logits`` (rows, classes)."""
    return float(losses_of(logits, labels).mean())


def losses_of(logits: npt.NDArray[np.float64], labels: Labels) -> npt.NDArray[np.float64]:
    """Negative log likelihood of each row's label, (rows,)."""
    shifted = logits - logits.max(axis=1, keepdims=True)
    return np.asarray(np.log(np.exp(shifted).sum(axis=1)) - shifted[np.arange(len(labels)), labels])


def softmax(logits: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Probabilities (rows, classes) of logits.

    >>> softmax(np.log([[1.0, 3.0]])).round(2).tolist()
    [[0.25, 0.75]]
    """
    exponents = np.exp(logits - logits.max(axis=1, keepdims=True, initial=-np.inf))
    return np.asarray(exponents / exponents.sum(axis=1, keepdims=True))

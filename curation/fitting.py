"""One run of training: steps, rates, the average of weights, the best epoch, and a checkpoint to go on from.

Mixup: Zhang et al., ICLR 2018; CutMix: Yun et al., ICCV 2019; both mix rows of one batch and their targets alike.
Between the weights before and after: WiSE-FT (Wortsman et al., CVPR 2022).
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from curation.config import TrainingSettings
from curation.errors import TrainingError
from curation.networks import FEW, Labels, Network, Placed, Targets, calibrated_loss
from curation.records import Progress
from curation.runs import write_whole

if TYPE_CHECKING:
    import torch

AVERAGING = 0.95
#: Training ends when the validation loss has not got better for so many epochs.
PATIENCE = 3
#: A checkpoint is written at the end of an epoch when the last one is older than this; it costs a flush to disk.
CHECKPOINT_SECONDS = 10.0
#: From so many steps on a network is compiled on CUDA: compiling takes about a minute, and saves some ten ms a step.
COMPILED_STEPS = 5_000


@dataclass(frozen=True)
class Crew:
    """One of ``size`` processes that train one network together, through torch's DistributedDataParallel."""

    rank: int
    size: int

    def joined(self, network: Network) -> torch.nn.Module:
        """The network as a module whose gradients are averaged over the processes."""
        from torch.nn.parallel import DistributedDataParallel

        device = network.store.backbone.device
        ids = [device] if device.type == "cuda" else None
        return DistributedDataParallel(network.as_module(), device_ids=ids, broadcast_buffers=False)

    def share(self, batch: Labels) -> Labels:
        """The rows of a batch that are this process's; none where there are fewer rows than processes."""
        return batch[self.rank :: self.size]

    def mean(self, value: torch.Tensor) -> torch.Tensor:
        """The mean over the processes of a value, which each then has."""
        from torch import distributed

        value = value.detach().clone()
        distributed.all_reduce(value)
        return value / self.size


def _vary(
    images: torch.Tensor, generator: torch.Generator, places: Labels | None = None, of: int | None = None
) -> torch.Tensor:
    """Images (n, 3, size, size), half of them mirrored and each cropped to 80 to 100 % of its side.

    Where they are the rows at ``places`` of a batch ``of`` more, they change as they do when the whole batch is given.
    """
    import torch

    n = of or len(images)
    chosen = torch.arange(n) if places is None else torch.from_numpy(places)
    scale = (0.8 + 0.2 * torch.rand(n, generator=generator))[chosen]
    shift = (2 * torch.rand(n, 2, generator=generator) - 1)[chosen] * (1 - scale)[:, None]
    mirror = torch.where(torch.rand(n, generator=generator) < 0.5, -1.0, 1.0)[chosen]
    change = torch.zeros(len(chosen), 2, 3)
    change[:, 0, 0], change[:, 1, 1], change[:, :, 2] = scale * mirror, scale, shift
    grid = torch.nn.functional.affine_grid(change.to(images.device), list(images.shape), align_corners=False)
    varied = torch.nn.functional.grid_sample(images, grid, padding_mode="reflection", align_corners=False)
    return varied.contiguous(memory_format=torch.channels_last)


def _mixed(
    inputs: torch.Tensor, targets: torch.Tensor, settings: TrainingSettings, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows and targets, mixed with others of the batch where the settings ask for it; one share a batch."""
    import torch

    cut = settings.cutmix > 0 and inputs.ndim == 4
    if cut and settings.mixup > 0:
        cut = float(torch.rand((), generator=generator)) < 0.5
    strength = settings.cutmix if cut else settings.mixup
    if strength <= 0 or len(inputs) < 2:
        return inputs, targets
    gammas = torch._standard_gamma(torch.full((2,), strength), generator=generator)
    share = float(gammas[0] / gammas.sum().clamp(min=1e-12))
    others = torch.randperm(len(inputs), generator=generator).to(inputs.device)
    if cut:
        height, width = inputs.shape[-2:]
        side = math.sqrt(1 - share)
        high, wide = round(height * side), round(width * side)
        top = int(torch.randint(height - high + 1, (1,), generator=generator))
        left = int(torch.randint(width - wide + 1, (1,), generator=generator))
        window = (..., slice(top, top + high), slice(left, left + wide))
        inputs = inputs.clone()
        inputs[window] = inputs[others][window]
        share = 1 - high * wide / (height * width)
    else:
        inputs = share * inputs + (1 - share) * inputs[others]
    return inputs, share * targets + (1 - share) * targets[others]


class Fit:
    """One training run: its network, rates, average of weights, and checkpoint.

    ``part`` is how many rows go through the network at once; halved where the device's memory does not hold them.
    """

    def __init__(
        self,
        network: Network,
        settings: TrainingSettings,
        seed: int,
        checkpoint: Path | None,
        run: str,
        progress: Progress | None,
        crew: Crew | None = None,
    ) -> None:
        self.network = network
        self.crew = crew
        self.settings = settings
        self.seed = seed
        self.checkpoint = checkpoint.with_suffix(".safetensors") if checkpoint else None
        self.run_id = run
        self.saved = time.monotonic()
        self.progress = progress
        self.part = settings.batch_size
        self.compiled = ""
        self.groups = network.rates(settings)
        self.trained = [p for group in self.groups for p in group["params"]]
        self.before = self._keep(self.trained)
        self.joined = crew.joined(network) if crew else None

    def run(
        self, rows: Placed, targets: Targets, labels: Labels, kept: Labels, held: Labels, epochs: int
    ) -> list[dict[str, float]]:
        """Train for ``epochs`` at most and leave the averaged weights of the best epoch in the network.

        ``targets`` (rows, classes) are learnt on the ``kept`` rows, weighted as they sum up; ``labels`` (rows,) of the
        ``held`` ones choose the epoch. Ends early when that has not got better for ``PATIENCE`` epochs.
        """
        import torch

        self.network.model.eval()  # normalisation keeps its pretrained statistics; the weights still learn
        optimizer = torch.optim.AdamW(self.groups, weight_decay=self.settings.weight_decay)
        steps_an_epoch = math.ceil(len(kept) / self.settings.batch_size)
        steps = epochs * steps_an_epoch
        average = self._keep(self.trained)
        judged = len(held) >= FEW  # fewer rows do not end the training early
        history: list[dict[str, float]] = []
        best = self._keep(average)
        best_loss = math.inf
        saved = self._resume(optimizer)
        if saved is not None:
            average, best, best_loss, history = saved
        self._compile(rows, kept, (epochs - len(history)) * steps_an_epoch)
        for epoch in range(len(history), epochs):
            if judged and _stale(history) >= PATIENCE:
                break
            loss = self._epoch(rows, targets, kept, optimizer, average, epoch, steps)
            live = self._swap(average)
            validation = self._agreed(self._validation_loss(rows, labels, held))
            if not len(held) or validation < best_loss:
                best_loss, best = validation, self._keep(self.trained)
            self._swap(live)
            history.append({"epoch": epoch + 1, "loss": loss, "validation_loss": validation})
            self._save(optimizer, average, best, best_loss, history)
            if self.progress:
                ended = judged and _stale(history) >= PATIENCE
                self.progress("fine-tuning", epoch + 1, epoch + 1 if ended else epochs)
        self._swap(best)
        if self.checkpoint and self._first:
            self.checkpoint.unlink(missing_ok=True)
        return history

    @property
    def _first(self) -> bool:
        """Whether this process is the one that writes."""
        return self.crew is None or self.crew.rank == 0

    def _agreed(self, value: float) -> float:
        """A figure that all processes decide by alike."""
        import torch

        if self.crew is None:
            return value
        return float(self.crew.mean(torch.tensor(value, device=self.network.store.backbone.device)))

    def _compile(self, rows: Placed, kept: Labels, steps: int) -> None:
        """Compile the network where the settings ask for it, or on CUDA where that many steps pay for it."""
        device = self.network.store.backbone.device.type
        auto = self.settings.compile == "auto" and device == "cuda" and steps >= COMPILED_STEPS
        if not self.network.whole or self.settings.deterministic or len(kept) < self.settings.batch_size:
            return
        if auto or self.settings.compile == "on":
            batch = kept[: self.settings.batch_size]
            batch = self.crew.share(batch) if self.crew else batch
            failed = self.network.compile(self.network.ready(rows.take(batch)))
            self.compiled = f", not compiled ({failed})" if failed else ", compiled"

    def _epoch(
        self, rows: Placed, targets: Targets, kept: Labels, optimizer: Any, average: list[torch.Tensor], epoch: int,
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
                group["lr"] = group.setdefault("initial_lr", group["lr"]) * learning_rate(step, steps)
            batch = order[start : start + size]
            total += self._gradient(rows, targets, batch, optimizer, generator) * len(batch)
            torch.nn.utils.clip_grad_norm_(self.trained, 1.0)
            optimizer.step()
            with torch.no_grad():
                torch._foreach_lerp_(average, self.trained, 1 - _averaging(step))
            step += 1
        loss = self._agreed(float(total) / max(len(order), 1))  # looked at once an epoch: each look makes a device wait
        if not math.isfinite(loss):
            rate = optimizer.param_groups[0]["initial_lr"]
            raise TrainingError(
                f"the loss became {loss} in epoch {epoch + 1} at rate {rate:.2g}; "
                "lower training.head_rate and training.tail_rate in curation.toml"
            )
        return loss

    def _gradient(
        self, rows: Placed, targets: Targets, batch: Labels, optimizer: Any, generator: torch.Generator
    ) -> torch.Tensor:
        """The gradient of the batch's mean loss, in as many parts as memory asks for; returns the loss."""
        import torch

        if self.crew is not None:
            return self._shared_gradient(rows, targets, batch, optimizer, generator)
        state = generator.get_state()
        while True:
            try:
                generator.set_state(state)
                optimizer.zero_grad(set_to_none=True)
                inputs = self.network.ready(rows.take(batch))
                inputs = _vary(inputs, generator) if self.network.whole else inputs
                wanted = torch.from_numpy(targets[batch]).to(inputs.device)
                inputs, wanted = _mixed(inputs, wanted, self.settings, generator)
                total = torch.zeros((), device=inputs.device)
                for start in range(0, len(batch), self.part):
                    part = slice(start, start + self.part)
                    loss = torch.nn.functional.cross_entropy(
                        self.network.logits(inputs[part]), wanted[part], reduction="sum"
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

    def _shared_gradient(
        self, rows: Placed, targets: Targets, batch: Labels, optimizer: Any, generator: torch.Generator
    ) -> torch.Tensor:
        """The same gradient where several processes take a share each; returns what its mean over them is the loss of.

        A process without rows takes part with one that weighs nothing.
        """
        import torch

        assert self.crew is not None
        assert self.joined is not None
        places = self.crew.share(np.arange(len(batch)))
        weight, places = (1.0, places) if len(places) else (0.0, np.zeros(1, dtype=np.int64))
        optimizer.zero_grad(set_to_none=True)
        try:
            inputs = self.network.ready(rows.take(batch[places]))
            inputs = _vary(inputs, generator, places, len(batch)) if self.network.whole else inputs
            wanted = torch.from_numpy(targets[batch[places]]).to(inputs.device)
            inputs, wanted = _mixed(inputs, wanted, self.settings, generator)
            loss = torch.nn.functional.cross_entropy(self.joined(inputs), wanted, reduction="sum")
            loss = loss * weight * self.crew.size / len(batch)
            loss.backward()  # type: ignore[no-untyped-call]  # torch has no types here
        except torch.OutOfMemoryError as error:  # the others wait in the same step, so none can take it in parts
            raise TrainingError(
                f"a share of {len(places)} images does not fit into a device's memory; lower training.batch_size"
            ) from error
        return loss.detach()

    def _save(
        self, optimizer: Any, average: list[torch.Tensor], best: list[torch.Tensor], best_loss: float,
        history: list[dict[str, float]],
    ) -> None:  # fmt: skip
        """Write all that the next epoch needs, whole or absent, where it is time to."""
        if self.checkpoint is None or not self._first or time.monotonic() - self.saved < CHECKPOINT_SECONDS:
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
        """Take up a checkpoint of this very run: average, best weights, their loss, history; ``None`` without one.

        One that is damaged is none: the training begins anew.
        """
        if self.checkpoint is None or not self.checkpoint.exists():
            return None
        from safetensors import SafetensorError, safe_open

        device, count = str(self.network.store.backbone.device), range(len(self.trained))
        try:
            with safe_open(str(self.checkpoint), framework="pt", device=device) as opened:
                about = opened.metadata() or {}
                tensors = {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118 — not a mapping
            if about["run"] != self.run_id:
                return None  # of other labels, recipes or settings
            live, average, best = ([tensors[f"{name}.{n}"] for n in count] for name in ("live", "mean", "best"))
            best_loss, history = float(about["best_loss"]), json.loads(about["history"])
        except (SafetensorError, OSError, KeyError, ValueError):
            return None
        self._swap(live)
        groups = optimizer.state_dict()["param_groups"]
        state = {n: {k.split(".")[2]: v for k, v in tensors.items() if k.startswith(f"adam.{n}.")} for n in count}
        optimizer.load_state_dict({"state": state, "param_groups": groups})
        return average, best, best_loss, history

    def _validation_loss(self, rows: Placed, labels: Labels, held: Labels) -> float:
        if not len(held):
            return 0.0
        return calibrated_loss(self.network.read(rows.take(held).cpu().numpy()), labels[held])

    def between(self, share: float, after: Sequence[torch.Tensor]) -> None:
        """Put weights into the network that lie this far from those before training to those ``after`` it."""
        import torch

        with torch.no_grad():
            for parameter, first, last in zip(self.trained, self.before, after, strict=True):
                parameter.copy_(torch.lerp(first, last, share))

    def weights(self) -> list[torch.Tensor]:
        """A copy of the trained weights as they are now."""
        return self._keep(self.trained)

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


def _stale(history: Sequence[dict[str, float]]) -> int:
    """How many epochs ago the validation loss was at its lowest.

    >>> _stale([{"validation_loss": 2.0}, {"validation_loss": 1.0}, {"validation_loss": 3.0}])
    1
    """
    losses = [epoch["validation_loss"] for epoch in history]
    return len(losses) - 1 - losses.index(min(losses)) if losses else 0


def learning_rate(step: int, steps: int) -> float:
    """What a step's rate is of the largest: a short rise, then a half cosine down to nothing.

    >>> [round(learning_rate(step, 40), 2) for step in (0, 1, 2, 21, 39)]
    [0.5, 1.0, 1.0, 0.5, 0.0]
    """
    rise = max(1, steps // 20)
    if step < rise:
        return (step + 1) / rise
    return 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1, steps - rise)))


def _averaging(step: int) -> float:
    """How much of the average stays at a step: less at first, so that it does not hang on to where it began."""
    return min(AVERAGING, (1 + step) / (10 + step))

"""A head on the views that labels are judged by: logistic and kernel regression on frozen features, in seconds.

What judges the labels of a small set best is mostly the best model of it, too: an image's features at several sizes
and mirrored (``ViewFeatures``) say more than fine-tuning adds (docs/log.md). Strength and noise are chosen by the error
on samples left out, near-duplicates together (``regression.py``); labels are learned as they are. The model is the mean
of both regressions; ``network_of`` makes one network of it with the one that makes the views.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from curation.backbone import Backbone, device_name, with_weights
from curation.config import TrainingSettings
from curation.copied import copied_by_views
from curation.copies import aligned_copies, taught_network, weights_with_copies
from curation.errors import DataError, TrainingError
from curation.features import ViewFeatures, part_tensors
from curation.kept import Kept
from curation.records import Augmentation, Predictions, Progress, Sample
from curation.regression import Inputs, choose_regressions, kept_inputs, softmax, squared_distances
from curation.runs import write_whole
from curation.scaling import LENGTH, scaled_by, without
from curation.steadying import seen_by

if TYPE_CHECKING:
    import torch

Features = npt.NDArray[np.float32]
Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Group = Callable[[Sequence[Sample]], Integers]

#: What the names of the network's weights begin with, in the file of a model whose network learnt.
_NETWORK = "network."
#: Samples whose features are held at once where nothing is learnt from them.
AT_ONCE = 2048


@dataclass(frozen=True, eq=False)
class ViewHead:
    """From features (n, d) to probabilities (n, classes); arrays float32, landmarks and ``nuisance`` float16.

    ``mean`` and ``divisor`` (d,) standardise, the directions of ``nuisance`` (k, d; mostly none) are taken out, then
    each row is brought to one length. ``weights`` (classes, d) and
    ``intercepts`` (classes,) are those of logistic regression, without rows where there is none. ``landmarks`` (m, d)
    are standardised samples, ``width`` (1,) and ``coefficients`` (m, classes) those of ``KernelFit``, divided by its
    temperature. ``offset`` (classes,) is added to the logarithm of the mean of both, in which the
    kernel has ``kernel_share`` (1,).
    """

    mean: Features
    divisor: Features
    weights: Features
    intercepts: Features
    landmarks: npt.NDArray[np.float16]
    width: Features
    coefficients: Features
    kernel_share: Features
    offset: Features
    nuisance: npt.NDArray[np.float16]

    def probabilities(self, features: Features) -> Floats:
        """Probabilities (n, classes) of features (n, d)."""
        rows = self.rows(features)
        return self.probabilities_of(rows, self.nearness(rows))

    def rows(self, features: Features) -> Features:
        """Features (n, d) standardised, without what is to be looked past."""
        return without(scaled_by(features, self.mean, self.divisor), self.nuisance)

    def nearness(self, rows: Features) -> Features:
        """How near standardised rows (n, d) are to each landmark by the kernel, (n, m); it depends on no label."""
        return np.asarray(np.exp(-squared_distances(rows, self.landmarks.astype(np.float32)) / self.width))

    def probabilities_of(self, rows: Features, nearness: Features) -> Floats:
        """Probabilities (n, classes) of standardised rows (n, d) that are so near (n, m) to the landmarks."""
        found = softmax(np.asarray(nearness @ self.coefficients, dtype=np.float64))
        if len(self.weights):
            of_logistic = softmax(np.asarray(rows @ self.weights.T + self.intercepts, dtype=np.float64))
            found = self.kernel_share * found + (1 - self.kernel_share) * of_logistic
        return softmax(np.log(np.maximum(found, 1e-12)) + self.offset)


@dataclass(frozen=True, eq=False)
class ViewModel:
    """A trained head with what makes its features. ``words`` says what it is, ``rows`` on how many it was trained.

    ``pretrained`` is the network that that of ``views`` was before a recipe taught it, where one did.
    """

    views: ViewFeatures
    class_ids: tuple[str, ...]
    head: ViewHead
    words: str
    rows: int = 0
    seconds: float = 0.0
    pretrained: Backbone | None = None

    def predict(self, samples: Sequence[Sample], progress: Progress | None = None) -> Predictions:
        """Class probabilities in the order of ``samples``; folds are -1, for none of them was trained on."""
        self.views.compute(samples, progress)
        parts = [samples[start : start + AT_ONCE] for start in range(0, len(samples), AT_ONCE)]
        found = [self.head.probabilities(self.views.features(part)) for part in parts]
        return Predictions(
            tuple(s.id for s in samples),
            self.class_ids,
            np.concatenate([np.zeros((0, len(self.class_ids))), *found]),
            np.full(len(samples), -1, dtype=np.int64),
        )

    def save(self, file: Path) -> None:
        """Write the head and what is needed to use it as safetensors, whole or absent; the network where it learnt."""
        from safetensors.numpy import save

        backbone = self.views.backbone
        arrays = arrays_of(self.head)
        if self.pretrained is not None:
            weights = backbone.model.state_dict().items()  # channels last, which safetensors would mix up
            arrays |= {_NETWORK + key: tensor.cpu().contiguous().numpy() for key, tensor in weights}
        about = {
            "way": "views",
            "class_ids": self.class_ids,
            "backbone": backbone.name,
            "identity": (self.pretrained or backbone).identity,
            "sizes": self.views.sizes,
            "rotation_invariant": self.views.rotation_invariant,
            "words": self.words,
            "rows": self.rows,
        }
        # One entry: safetensors writes several in any order, and the same model must be the same file.
        write_whole(file, save(arrays, metadata={"curation": json.dumps(about)}))


def arrays_of(head: ViewHead) -> dict[str, npt.NDArray[Any]]:
    """The arrays of a head by name."""
    return {field.name: np.ascontiguousarray(getattr(head, field.name)) for field in fields(head)}


def head_of(arrays: Mapping[str, npt.NDArray[Any]]) -> ViewHead:
    """The inverse of ``arrays_of``; what was written before there was a ``nuisance`` has none. Raises TypeError."""
    return ViewHead(**{"nuisance": np.zeros((0, len(arrays["mean"])), dtype=np.float16), **arrays})


def load_view_model(file: Path, views: ViewFeatures) -> ViewModel:
    """A model that ``ViewModel.save`` wrote; raises DataError for another file, or one made with other weights."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(file), framework="numpy") as opened:
            about = json.loads((opened.metadata() or {})["curation"])
            arrays = {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118 — not a mapping
        network = {key.removeprefix(_NETWORK): arrays.pop(key) for key in list(arrays) if key.startswith(_NETWORK)}
        head = head_of(arrays)
    except (SafetensorError, OSError, KeyError, ValueError, TypeError):
        raise DataError(f"{file} is no head on views; train again with `curate run`") from None
    if (about["identity"], about["sizes"]) != (views.backbone.identity, views.sizes):
        raise DataError(
            f"{file} was trained on {about['backbone']} at {', '.join(map(str, about['sizes']))} px with other "
            "weights; use those"
        )
    if head.mean.shape != (sum(views.widths),):
        raise DataError(f"{file} was trained by another version of the toolkit; train again with `curate run`")
    looking = views.looking(rotation_invariant=about.get("rotation_invariant", False))
    told = tuple(about["class_ids"]), head, about["words"], about["rows"]
    if not network:
        return ViewModel(looking, *told)
    return ViewModel(looking.by(with_weights(views.backbone, network)), *told, pretrained=views.backbone)


class ViewTrainer:
    """Trains a head on views; ``group`` numbers samples, (samples,): those of one number are left out together."""

    def __init__(self, views: ViewFeatures, settings: TrainingSettings, group: Group, kept: Kept | None = None) -> None:
        self.views = views
        self._settings = settings
        self.group = group
        self._kept = kept or Kept()

    def train(
        self,
        samples: Sequence[Sample],
        labels: Integers,
        class_ids: tuple[str, ...],
        *,
        seed: int,
        augmentations: Sequence[Augmentation],
        checkpoint: Path,
        progress: Progress | None,
    ) -> ViewModel:
        """Fit the head; ``labels`` has shape (samples,), columns of ``class_ids``; TrainingError for one class."""
        began = time.perf_counter()
        balance, rows = self._settings.class_balance, len(samples)
        if network := taught_network(augmentations):
            return self._on_taught(network, samples, labels, class_ids, seed, progress, began)
        copies, copied = copied_by_views(self.views, self._kept).copies(samples, augmentations, seed, progress)
        if len(copies):
            of = np.concatenate([np.arange(rows), copied])
            features = np.concatenate([self.views.features(samples, progress), copies])
            weights = weights_with_copies(samples, augmentations)
            aligned = rows + np.flatnonzero(aligned_copies(samples, augmentations))
            rows = len(of)
            head, chosen = fit_view_head(
                features, labels[of], len(class_ids), groups=self.group(samples)[of], widths=self.views.widths,
                seed=seed, weights=weights, class_balance=balance, altered=(aligned, of[aligned]),
            )  # fmt: skip
        else:
            inputs = kept_inputs(
                self._kept, [s.id for s in samples], lambda: self.views.features(samples, progress), len(class_ids),
                apart(self.group(samples)), seed=seed, widths=self.views.widths, overwrite=True,
            )  # fmt: skip
            head, chosen = fit_view_head_on(inputs, labels, class_balance=balance)
        words = self._words(len(samples), rows - len(samples), chosen, aligned=len(head.nuisance) > 0)
        return ViewModel(self.views, class_ids, head, words, rows, time.perf_counter() - began)

    def _on_taught(
        self, network: Path, samples: Sequence[Sample], labels: Integers, class_ids: tuple[str, ...], seed: int,
        progress: Progress | None, began: float,
    ) -> ViewModel:  # fmt: skip
        """A head on what a network sees of the samples that was taught by a recipe."""
        views = seen_by(self.views, network)
        head, chosen = fit_view_head(
            views.features(samples, progress), labels, len(class_ids), groups=self.group(samples), widths=views.widths,
            seed=seed, class_balance=self._settings.class_balance,
        )  # fmt: skip
        words = self._words(len(samples), 0, chosen, taught=True)
        return ViewModel(views, class_ids, head, words, len(samples), time.perf_counter() - began, self.views.backbone)

    def losses(
        self, samples: Sequence[Sample], labels: Integers, n_classes: int, held: npt.NDArray[np.bool_], seed: int
    ) -> Floats:
        """Log loss of each of the samples that are ``held``, (samples,), by a head trained on the others."""
        features = self.views.features(samples)
        groups = self.group(samples)[~held]
        head, _ = fit_view_head(
            features[~held], labels[~held], n_classes, groups=groups, widths=self.views.widths, seed=seed,
            class_balance=self._settings.class_balance,
        )  # fmt: skip
        found = head.probabilities(features[held])
        return np.asarray(-np.log(np.maximum(found[np.arange(len(found)), labels[held]], 1e-12)))

    def _words(
        self, rows: int, copies: int, chosen: Mapping[str, float], *, aligned: bool = False, taught: bool = False
    ) -> str:
        backbone = self.views.backbone
        sizes = ", ".join(map(str, self.views.sizes))
        strengths = ", ".join(f"{name} {value:g}" for name, value in chosen.items())
        looks = "mirror and turned images" if self.views.rotation_invariant else "mirror images"
        return (
            f"a head on features of {backbone.name}{', taught to see past a recipe,' if taught else ''} at {sizes} px "
            f"with {looks}, on {rows:,} images "
            f"{f'and {copies:,} augmented copies ' if copies else ''}"
            f"{'looking past what these change most ' if aligned else ''}({strengths}); "
            f"{device_name(str(backbone.device))}"
        )


def fit_view_head(
    features: Features, labels: Integers, n_classes: int, *, groups: Integers, widths: Sequence[int], seed: int,
    weights: Floats | None = None, class_balance: bool = False, altered: tuple[Integers, Integers] | None = None,
) -> tuple[ViewHead, dict[str, float]]:  # fmt: skip
    """Fit a head on ``features`` (samples, d) and ``labels`` (samples,); returns it and what was chosen, by name.

    ``groups`` (samples,) are left out together where strength and noise are chosen; ``widths`` are those of the parts
    that features are made of; ``weights`` (samples,) are what each sample counts, 1 by default; ``altered`` is that of
    ``Inputs``. With ``class_balance`` every class that has labels is taken to be as frequent as another (Saerens,
    Latinne and Decaestecker, Neural Computation 2002). Raises TrainingError where the labels are all of one class.
    """
    inputs = Inputs(features, n_classes, apart(groups), seed=seed, widths=widths, weights=weights, altered=altered)
    return fit_view_head_on(inputs, labels, class_balance=class_balance)


def fit_view_head_on(
    inputs: Inputs, labels: Integers, *, class_balance: bool = False
) -> tuple[ViewHead, dict[str, float]]:
    """As ``fit_view_head``, on inputs of several groups, which may have been learned from with other labels before."""
    if len(np.unique(labels)) < 2:
        raise TrainingError("a head needs at least two classes to train on; add labeled images of another class")
    rows, n_classes = inputs.rows, inputs.n_classes
    chosen = choose_regressions(inputs, labels)
    weights: Floats = np.zeros((0, rows.shape[1]))
    intercepts: Floats = np.zeros(0)
    if chosen.logistic is not None and chosen.reduced is not None:
        weights, intercepts = chosen.logistic.fitted(labels)
        if chosen.reduced is not rows:  # from principal components back to what they are of
            squares = (chosen.reduced**2).sum(axis=0)
            weights = (weights / np.maximum(squares, 1e-9)) @ chosen.reduced.T.astype(np.float64) @ rows
    assert chosen.kernel is not None
    kernel = chosen.kernel.fitted(labels)
    counted = np.bincount(labels, inputs.weights, minlength=n_classes)
    frequency = np.maximum(counted, 1) / counted.sum()
    head = ViewHead(
        mean=inputs.mean.astype(np.float32),
        divisor=inputs.divisor.astype(np.float32),
        weights=weights.astype(np.float32),
        intercepts=intercepts.astype(np.float32),
        landmarks=rows[kernel.landmarks].astype(np.float16),
        width=np.array([kernel.width], dtype=np.float32),
        coefficients=(kernel.coefficients / kernel.temperature).astype(np.float32),
        kernel_share=np.array([chosen.kernel_share], dtype=np.float32),
        offset=np.where(class_balance & (counted > 0), -np.log(frequency), 0).astype(np.float32),
        nuisance=inputs.nuisance,
    )
    return head, dict(chosen.settings)


def apart(groups: Integers) -> Integers:
    """Groups (samples,), or each sample by itself where all are of one: something has to be left out."""
    return groups if len(np.unique(groups)) > 1 else np.arange(len(groups))


def network_of(
    model: Any, mean: Sequence[float], std: Sequence[float], head: ViewHead, turned: Sequence[bool]
) -> torch.nn.Module:
    """One network from pixels to probabilities (n, classes), made of a backbone's ``model`` and a head.

    It takes one uint8 tensor (n, side, side, 3) a view, the largest first: the same images at each of the views' sizes.
    ``mean`` and ``std`` are those of colours from 0 to 1, as the backbone wants them, ``turned`` that of
    ``ViewFeatures``.
    """
    import torch

    class Whole(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.backbone = model
            self.register_buffer("colour_mean", torch.tensor(mean).view(1, 3, 1, 1) * 255, persistent=False)
            self.register_buffer("colour_std", torch.tensor(std).view(1, 3, 1, 1) * 255, persistent=False)
            for name, values in arrays_of(head).items():
                self.register_buffer(name, torch.from_numpy(values))

        def forward(self, *pixels: torch.Tensor) -> torch.Tensor:
            held: Any = self  # its buffers, which torch does not type
            views = []
            for images, half_circle in zip(pixels, turned, strict=True):
                images = (images.permute(0, 3, 1, 2).float() - held.colour_mean) / held.colour_std
                parts = part_tensors(held.backbone, torch.cat([images, images.flip((2, 3) if half_circle else (3,))]))
                views.append(torch.cat(parts, dim=1).reshape(2, images.shape[0], -1).mean(dim=0))
            rows = (torch.cat(views, dim=1) - held.mean) / held.divisor
            if len(held.nuisance):
                nuisance = held.nuisance.float()
                rows = rows - (rows @ nuisance.T) @ nuisance
            rows = rows * (LENGTH / rows.norm(dim=1, keepdim=True).clamp(min=1e-6))
            landmarks = held.landmarks.float()
            squares = (rows**2).sum(dim=1, keepdim=True) + (landmarks**2).sum(dim=1) - 2 * rows @ landmarks.T
            found = torch.softmax(torch.exp(-squares.clamp(min=0) / held.width) @ held.coefficients, dim=1)
            if len(held.weights):
                of_logistic = torch.softmax(rows @ held.weights.T + held.intercepts, dim=1)
                found = held.kernel_share * found + (1 - held.kernel_share) * of_logistic
            return torch.softmax(found.clamp(min=1e-12).log() + held.offset, dim=1)

    return Whole().eval().requires_grad_(False)

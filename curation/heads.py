"""A linear head on cached features: the quick trainer, seconds where fine-tuning takes minutes.

Multinomial logistic regression (scikit-learn) on standardised features scaled to one length; strength C = 0.01 was the
best by out-of-fold log loss on noisy labels of CIFAR-10N (see ``benchmarks/detection.py``), and a weak one overfits.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from curation.copied import CopiedFeatures
from curation.copies import balanced, weights_with_copies
from curation.errors import TrainingError
from curation.records import Augmentation, Predictions, Progress, Sample
from curation.runs import write_whole

STRENGTH = 0.01
LENGTH = 10.0

#: What a head's file holds.
_TENSORS = {"mean", "scale", "coefficients", "intercept"}

Features = npt.NDArray[np.float32]


class Featurizer(Protocol):
    """Turns images into features, cached for samples."""

    def features(self, samples: Sequence[Sample], progress: Progress | None = None) -> Features:
        """Features of shape (samples, dimensions)."""
        ...


@dataclass(frozen=True, eq=False)
class HeadModel:
    """A trained head. ``coefficients`` has shape (classes, dimensions), ``intercept`` (classes,)."""

    featurizer: Featurizer
    class_ids: tuple[str, ...]
    mean: Features
    scale: Features
    coefficients: Features
    intercept: Features

    @property
    def words(self) -> str:
        """What was trained."""
        return "a linear head on frozen features"

    def predict(self, samples: Sequence[Sample], progress: Progress | None = None) -> Predictions:
        """Class probabilities of samples, in their order."""
        features = self.featurizer.features(samples, progress)
        logits = _scaled(features, self.mean, self.scale) @ self.coefficients.T + self.intercept
        exponents = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
        probabilities = exponents / exponents.sum(axis=1, keepdims=True)
        return Predictions(
            tuple(s.id for s in samples), self.class_ids, probabilities, np.full(len(samples), -1, dtype=np.int64)
        )

    def save(self, file: Path) -> None:
        """Write the head as safetensors, whole or absent."""
        from safetensors.numpy import save

        tensors = {name: getattr(self, name) for name in sorted(_TENSORS)}
        write_whole(file, save(tensors, metadata={"class_ids": json.dumps(self.class_ids)}))


def is_head(file: Path) -> bool:
    """Whether a model's file is one that ``HeadModel.save`` wrote."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(file), framework="numpy") as opened:
            return set(opened.keys()) == _TENSORS and "class_ids" in (opened.metadata() or {})
    except (SafetensorError, OSError):
        return False


class HeadTrainer:
    """Trains a linear head on features of samples and of their augmented copies.

    With ``class_balance`` the images and copies of each class weigh the same together.
    """

    def __init__(self, store: CopiedFeatures, *, class_balance: bool = False) -> None:
        self._store = store
        self._class_balance = class_balance

    def train(
        self,
        samples: Sequence[Sample],
        labels: npt.NDArray[np.int64],
        class_ids: tuple[str, ...],
        *,
        seed: int,
        augmentations: Sequence[Augmentation],
        checkpoint: Path,
        progress: Progress | None,
    ) -> HeadModel:
        """Fit the head; ``labels`` has shape (samples,), columns of ``class_ids``; TrainingError for one class."""
        from sklearn.linear_model import LogisticRegression

        if len(np.unique(labels)) < 2:
            raise TrainingError("a head needs at least two classes to train on; add labeled images of another class")
        features = self._store.features(samples, progress)
        extra, copied = self._store.copies(samples, augmentations, seed, progress)
        mean, scale = features.mean(axis=0), features.std(axis=0) + 1e-6
        inputs = _scaled(np.concatenate([features, extra]) if len(extra) else features, mean, scale)
        wanted, weights = np.concatenate([labels, labels[copied]]), weights_with_copies(samples, augmentations)
        if self._class_balance:
            weights = balanced(weights, wanted)
        fitted = LogisticRegression(C=STRENGTH, max_iter=300).fit(inputs, wanted, sample_weight=weights)
        present = fitted.classes_.astype(int)
        coefficients = np.zeros((len(class_ids), features.shape[1]), dtype=np.float32)
        intercept = np.full(len(class_ids), -30.0, dtype=np.float32)  # a class without samples is as good as impossible
        if len(present) == 2:  # scikit-learn keeps one row for two classes
            coefficients[present[0]], coefficients[present[1]] = -fitted.coef_[0] / 2, fitted.coef_[0] / 2
            intercept[present] = [-fitted.intercept_[0] / 2, fitted.intercept_[0] / 2]
        else:
            coefficients[present], intercept[present] = fitted.coef_, fitted.intercept_
        return HeadModel(self._store, class_ids, mean, scale, coefficients, intercept)


def _scaled(features: Features, mean: Features, scale: Features) -> Features:
    standard = (features - mean) / scale
    return np.asarray(standard * (LENGTH / (np.linalg.norm(standard, axis=1, keepdims=True) + 1e-9)), dtype=np.float32)

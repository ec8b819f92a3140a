"""Out-of-sample predictions by training anew without each fold: what a scorer costs that learns the features too.

Dear, where ``scoring.py`` asks for one fit on frozen features; it pays where images are far from what the backbone was
pretrained on. Each fold's predictions are kept when they are made, so that a stopped run goes on with the next fold.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from curation.errors import InputError
from curation.records import Augmentation, Predictions, Progress, Sample
from curation.scoring import Integers, OutOfSample, check_shapes, fold_numbers
from curation.tables import predictions_from_frame, predictions_to_frame, read_frame, write_frame


class Predictor(Protocol):
    """A trained classifier."""

    def predict(self, samples: Sequence[Sample], progress: Progress | None = None) -> Predictions:
        """Class probabilities of samples, in their order."""
        ...


class Learner(Protocol):
    """Trains a classifier on labeled samples."""

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
    ) -> Predictor:
        """Train; ``labels`` has shape (samples,), columns of ``class_ids``."""
        ...


def cross_validate(
    learner: Learner,
    samples: Sequence[Sample],
    labels: Integers,
    class_ids: tuple[str, ...],
    *,
    groups: Integers,
    folds: int,
    seed: int,
    folder: Path,
    progress: Progress | None = None,
) -> OutOfSample:
    """Class probabilities (samples, classes) of every sample by a model trained without its fold.

    ``labels`` has shape (samples,), columns of ``class_ids``; ``groups`` (samples,) are never divided, so
    near-duplicates share a fold; classes are spread evenly. A class that only one group has is unknown to the model
    that judges that group. Predictions of a fold are kept under ``folder`` by samples, labels, folds and seed, and
    taken from there the next time. Raises RecordError or InputError for labels that can't be judged.
    """
    began = time.perf_counter()
    ids = np.array([s.id for s in samples])
    check_shapes(np.zeros((len(samples), 1)), labels, len(class_ids), groups)
    numbered = np.unique(groups, return_inverse=True)[1].astype(np.int64)
    folds = min(folds, int(numbered.max()) + 1)
    numbers = fold_numbers(labels, numbered, folds, seed)
    kept = folder / _key(ids, labels, numbers, class_ids, seed)
    probabilities = np.zeros((len(samples), len(class_ids)))
    for fold in range(folds):
        held = np.flatnonzero(numbers == fold)
        if len(held):
            predicted = _of_fold(learner, samples, labels, class_ids, numbers, fold, seed, kept, progress)
            probabilities[held] = predicted.take([samples[row].id for row in held]).probabilities
    words = f"{folds} models, each trained without a fold"
    return OutOfSample(probabilities, numbers, words, {"folds": float(folds)}, time.perf_counter() - began)


def _of_fold(
    learner: Learner,
    samples: Sequence[Sample],
    labels: Integers,
    class_ids: tuple[str, ...],
    numbers: Integers,
    fold: int,
    seed: int,
    kept: Path,
    progress: Progress | None,
) -> Predictions:
    file = kept / f"fold-{fold}.parquet"
    if file.exists():
        return predictions_from_frame(read_frame(file))
    learned = np.flatnonzero(numbers != fold)
    if len(np.unique(labels[learned])) < 2:
        raise InputError(
            "without one fold labels are all of one class; add images of another class or set detection.folds higher"
        )
    model = learner.train(
        [samples[row] for row in learned], labels[learned], class_ids, seed=seed, augmentations=(),
        checkpoint=kept / f"fold-{fold}.safetensors", progress=_telling(progress, fold, int(numbers.max()) + 1),
    )  # fmt: skip
    predicted = model.predict([samples[row] for row in np.flatnonzero(numbers == fold)], progress)
    write_frame(file, predictions_to_frame(predicted))
    (kept / f"fold-{fold}.safetensors").unlink(missing_ok=True)
    return predicted


def _telling(progress: Progress | None, fold: int, folds: int) -> Progress | None:
    if progress is None:
        return None
    return lambda what, done, total: progress(f"fold {fold + 1} of {folds}: {what}", done, total)


def _key(ids: npt.NDArray[np.str_], labels: Integers, numbers: Integers, class_ids: Sequence[str], seed: int) -> str:
    told = hashlib.sha256()
    words = [*ids.tolist(), *class_ids, str(seed)]
    for part in ("\0".join(words).encode(), labels.astype("<i8").tobytes(), numbers.astype("<i8").tobytes()):
        told.update(part)
        told.update(b"\0")
    return told.hexdigest()[:16]

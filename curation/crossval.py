"""Out-of-sample predictions by training anew without each fold: what a scorer costs that learns the features too.

Dear, where ``scoring.py`` asks for one fit on frozen features; it pays where images are far from what the backbone was
pretrained on. Each fold's predictions are kept when they are made, so that a stopped run goes on with the next fold.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from curation.engine import Engine, LocalEngine
from curation.errors import InputError
from curation.records import Augmentation, Predictions, Progress, Sample
from curation.regression import fold_numbers
from curation.scoring import Integers, OutOfSample, check_shapes
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
    engine: Engine | None = None,
) -> OutOfSample:
    """Class probabilities (samples, classes) of every sample by a model trained without its fold.

    ``labels`` has shape (samples,), columns of ``class_ids``; ``groups`` (samples,) are never divided, so
    near-duplicates share a fold; classes are spread evenly. A class that only one group has is unknown to the model
    that judges that group. Predictions of a fold are kept under ``folder`` by samples, labels, folds and seed, and
    taken from there the next time. The ``engine`` trains, by default in this process; its workers must see ``folder``,
    the images and what ``learner`` reads at the same paths. Raises RecordError or InputError for labels that can't be
    judged.
    """
    began = time.perf_counter()
    ids = np.array([s.id for s in samples])
    check_shapes(np.zeros((len(samples), 1)), labels, len(class_ids), groups)
    numbered = np.unique(groups, return_inverse=True)[1].astype(np.int64)
    folds = min(folds, int(numbered.max()) + 1)
    numbers = fold_numbers(labels, numbered, folds, seed)
    kept = folder / _key(ids, labels, numbers, class_ids, seed)
    probabilities = np.zeros((len(samples), len(class_ids)))
    held = {fold: np.flatnonzero(numbers == fold) for fold in range(folds) if (numbers == fold).any()}
    missing = [fold for fold in held if not _file(kept, fold).exists()]
    given = _Given(learner, tuple(samples), labels, class_ids, numbers, seed, kept)
    trained = (engine or LocalEngine()).map(_of_fold, given, missing, progress)
    for fold, predicted in zip(missing, trained, strict=True):
        write_frame(_file(kept, fold), predictions_to_frame(predicted))
        _checkpoint(kept, fold).unlink(missing_ok=True)
        if progress:
            progress("training without each fold", fold + 1, folds)
    for fold, rows in held.items():
        predicted = predictions_from_frame(read_frame(_file(kept, fold)))
        probabilities[rows] = predicted.take([samples[row].id for row in rows]).probabilities
    words = f"{folds} models, each trained without a fold"
    return OutOfSample(probabilities, numbers, words, {"folds": float(folds)}, time.perf_counter() - began)


@dataclass(frozen=True, eq=False)
class _Given:
    """What the training of every fold begins with; ``numbers`` (samples,) says which fold each sample is in."""

    learner: Learner
    samples: tuple[Sample, ...]
    labels: Integers
    class_ids: tuple[str, ...]
    numbers: Integers
    seed: int
    kept: Path


def _of_fold(given: _Given, fold: int, progress: Progress | None) -> Predictions:
    """Train without a fold and predict it; a training that was stopped goes on at its checkpoint."""
    learned, held = np.flatnonzero(given.numbers != fold), np.flatnonzero(given.numbers == fold)
    if len(np.unique(given.labels[learned])) < 2:
        raise InputError(
            "without one fold labels are all of one class, as where all images of a class are in one group or near-"
            "duplicates: add images of it that are not, or judge labels with detection.scorer = 'features'"
        )
    model = given.learner.train(
        [given.samples[row] for row in learned], given.labels[learned], given.class_ids, seed=given.seed,
        augmentations=(), checkpoint=_checkpoint(given.kept, fold),
        progress=_telling(progress, fold, int(given.numbers.max()) + 1),
    )  # fmt: skip
    return model.predict([given.samples[row] for row in held], progress)


def _file(kept: Path, fold: int) -> Path:
    return kept / f"fold-{fold}.parquet"


def _checkpoint(kept: Path, fold: int) -> Path:
    return kept / f"fold-{fold}.safetensors"


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

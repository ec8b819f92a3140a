"""What the stages of an iteration work with: small protocols of who trains, answers and reports, and their values."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from curation.engine import Engine, LocalEngine
from curation.evidence import Said
from curation.holdout import Check
from curation.kept import Kept
from curation.records import (
    Augmentation,
    Classes,
    CurrentLabel,
    Issue,
    Predictions,
    Progress,
    QueueEntry,
    Rows,
    Sample,
    Slice,
    Verdict,
)

if TYPE_CHECKING:
    import pandas as pd

    from curation.tracking import Shot


class Encoder(Protocol):
    """Turns images into features."""

    def features(self, samples: Sequence[Sample], progress: Progress | None = None) -> npt.NDArray[np.float32]:
        """Features of shape (samples, dimensions), in the order of ``samples``."""
        ...


class Judge(Encoder, Protocol):
    """Turns images into features that labels are judged by."""

    @property
    def widths(self) -> tuple[int, ...]:
        """Of how many features each part is that stands in a row, in their order."""
        ...

    def stored(self, samples: Sequence[Sample], progress: Progress | None = None) -> Rows:
        """The same features, read where they are asked for; of one sample at least."""
        ...


class Model(Protocol):
    """A trained classifier."""

    @property
    def words(self) -> str:
        """What ran, on which device, in words."""
        ...

    def predict(self, samples: Sequence[Sample], progress: Progress | None = None) -> Predictions:
        """Class probabilities for samples that it was not trained on."""
        ...

    def save(self, file: Path) -> None:
        """Write the weights, whole or absent."""
        ...


class Trainer(Protocol):
    """Trains a classifier on labeled samples."""

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
    ) -> Model:
        """Train; ``labels`` has shape (samples,), columns of ``class_ids``."""
        ...


class Annotator(Protocol):
    """Where verdicts come from: people in Label Studio, or a file in their place."""

    def send(self, entries: Sequence[QueueEntry], files: Mapping[str, Path], progress: Progress | None = None) -> None:
        """Ask for opinions; asking again for the same keys asks nobody twice. ``files``: sample id to image."""
        ...

    def collect(self, entries: Sequence[QueueEntry], known: Sequence[Verdict] = ()) -> list[Verdict]:
        """All answers that are there now, and a ``withdrawn`` one for each of ``known`` that was taken back."""
        ...

    def waiting(self, entries: Sequence[QueueEntry]) -> int:
        """How many opinions are still to come."""
        ...


class Reporter(Protocol):
    """Shows an iteration to people."""

    def record(self, account: Account) -> Mapping[str, str]:
        """Record it, replacing what was recorded of the same iteration; returns what to tell the user of it."""
        ...


@dataclass(frozen=True)
class Account:
    """All that an iteration left behind, for reporters to read: results of its stages, and labels before and after."""

    number: int
    folder: Path
    samples: Sequence[Sample]
    classes: Classes
    before: Mapping[str, CurrentLabel]
    after: Mapping[str, CurrentLabel]
    scored: Scored | None
    review: Mapping[str, Any]
    model_before: Predictions | None
    model_after: Predictions
    properties: pd.DataFrame
    trained: Mapping[str, Any]
    said: Said | None = None  #: what labelers said so far, judged by this iteration's predictions
    verdicts: Sequence[Verdict] = ()  #: what labelers said in this iteration
    looks: pd.DataFrame | None = None
    shots: tuple[Shot, ...] = ()
    checked: Check | None = None  #: what people found in the holdout's labels so far
    merged: Mapping[str, str] = field(default_factory=dict)  #: classes that are others now, by id
    features: Callable[[], npt.NDArray[np.float32]] | None = None  #: of the samples, in their order; from the cache
    imported: Collection[str] = ()  #: samples whose labels came by import since the iteration before; in ``before`` too
    trained_before: Mapping[str, Any] = field(default_factory=dict)  #: as ``trained``, of the iteration before


@dataclass(frozen=True)
class Scored:
    """The result of scoring: out-of-sample predictions and quality of the labeled rows, issues, slices."""

    predictions: Predictions
    quality: Mapping[str, float]
    issues: tuple[Issue, ...]
    slices: tuple[Slice, ...]


class Copies(Protocol):
    """Encodes augmented copies."""

    def __call__(
        self, samples: Sequence[Sample], augmentations: Sequence[Augmentation], seed: int
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
        """Features of all copies of ``samples`` (copies, dimensions), and each copy's row in ``samples``."""
        ...


class Seen(Protocol):
    """Encodes images by a network in a file, or the same way by the one that it was taught from."""

    def __call__(
        self, network: Path | None, samples: Sequence[Sample], progress: Progress | None
    ) -> npt.NDArray[np.float32]:
        """Features of shape (samples, dimensions), in the order of ``samples``; with ``None`` by the pretrained one."""
        ...


@dataclass(frozen=True)
class Repaired:
    """A slice with what is done about it, the copies that are used, and how many copies were looked at for it."""

    slice: Slice
    copies: Augmentation
    looked_at: int


class Repairs(Protocol):
    """Tries what may help a slice, looking at ``most`` copies at most."""

    def __call__(
        self,
        weak: Slice,
        properties: pd.DataFrame,
        sample_ids: Sequence[str],
        labels: Sequence[str],
        folder: Path,
        most: int,
        unlabeled: Sequence[Sample] = (),
    ) -> Repaired:
        """``properties`` has a row for each of ``sample_ids``, of class ids ``labels``; writes into ``folder``.

        ``unlabeled`` images, of which none is in the holdout or goes with one there, are of use where no label counts.
        """
        ...


@dataclass(frozen=True)
class Parts:
    """The collaborators of the loop; made where the program is put together."""

    encoder: Encoder
    trainer: Trainer
    measure: Callable[[Sequence[Sample], Progress | None], pd.DataFrame]
    repair: Repairs
    reporters: Sequence[Reporter]
    progress: Progress | None = None
    judge: Judge | None = None  #: features that labels are judged by, where not those of ``encoder``
    engine: Engine = field(default_factory=LocalEngine)  #: where labels are scored
    kept: Kept = field(default_factory=Kept)  #: what was worked out for scoring before
    copies: Copies | None = None  #: features of augmented copies; without it augmentation gets no credit
    taught: Seen | None = None  #: features by a network that a recipe taught; without it the credit is that of copies
    identity: str = ""  #: of the network and its weights, as ``Backbone`` has it: what is kept elsewhere goes by it

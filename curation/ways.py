"""Which way the model of an iteration is trained: by fine-tuning, or as a head on the views that labels are judged by.

The part of the train rows that fine-tuning sets apart decides once: fine-tuning is taken where its log loss is lower by
more than a standard error of the difference (the one-standard-error rule of Breiman et al., 1984), for it has chosen
its epoch and temperature there, and a head is the simpler model. Later iterations go the same way, so that what
differs between two of them is the data.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from curation.features import FeatureStore, ViewFeatures
from curation.networks import FEW
from curation.records import Augmentation, Progress, Sample
from curation.training import FineTuned, about_model, load_fine_tuned, validation_rows
from curation.view_heads import ViewModel, ViewTrainer, load_view_model

#: More train images than this are fine-tuned without a try: their views take gigabytes, and are no longer few.
MOST_ROWS = 20_000


class Tuner(Protocol):
    """Fine-tunes, as ``parts.Trainer`` has it."""

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
    ) -> FineTuned:
        """Train; ``labels`` has shape (samples,), columns of ``class_ids``."""
        ...


class EitherTrainer:
    """Trains the way that the last iteration's model went; the first one both ways, and keeps the better."""

    def __init__(self, tuner: Tuner, viewer: ViewTrainer) -> None:
        self._tuner = tuner
        self._viewer = viewer

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
    ) -> FineTuned | ViewModel:
        """Train; ``labels`` has shape (samples,), columns of ``class_ids``.

        ``checkpoint`` lies in the folder of the iteration; what lies elsewhere is a fold of a cross-validation that is
        to train the network, and so are more than ``MOST_ROWS`` samples. Raises what fine-tuning raises.
        """
        how: dict[str, Any] = {
            "seed": seed, "augmentations": augmentations, "checkpoint": checkpoint, "progress": progress,
        }  # fmt: skip
        before = model_before(checkpoint)
        way = way_of(before, self._viewer.views.backbone.identity) if before else None
        if way == "views":
            return self._viewer.train(samples, labels, class_ids, **how)
        if way == "fine-tune" or before is None or len(samples) > MOST_ROWS:
            return self._tuner.train(samples, labels, class_ids, **how)
        held = validation_rows(labels, seed, self._viewer.group(samples))
        if held.sum() < FEW:  # too few to compare by
            return self._viewer.train(samples, labels, class_ids, **how)
        tuned = self._tuner.train(samples, labels, class_ids, **how)
        viewed = self._viewer.losses(samples, labels, len(class_ids), held, seed)
        gained = viewed - tuned.losses
        told = f"on the part set apart {{}} a log loss of {viewed.mean():.3f}, fine-tuning {tuned.losses.mean():.3f}"
        if gained.mean() > gained.std(ddof=1) / math.sqrt(len(gained)):
            tuned.words += "; " + told.format("a head on views has")
            return tuned
        model = self._viewer.train(samples, labels, class_ids, **how)
        return replace(model, words=f"{model.words}; " + told.format("it has"))


def model_before(checkpoint: Path) -> Path | None:
    """The file of the last iteration's model; ``None`` where ``checkpoint`` is not that of an iteration."""
    number = checkpoint.parent.name
    return checkpoint.parent.with_name(f"{int(number) - 1:03d}") / "model.safetensors" if number.isdigit() else None


def way_of(file: Path, identity: str) -> str | None:
    """``fine-tune`` or ``views``, as the model in a file was trained on these weights; ``None`` for anything else."""
    about = about_model(file)
    if about is None or about.get("identity") != identity:
        return None
    return str(about.get("way", "fine-tune"))


def trained_how(file: Path) -> dict[str, str]:
    """How the model in a file was trained, beside its settings; nothing for a file of something else.

    ``model``: fine-tuned, a head alone where the network was not shown to gain by that, or a head on views. And
    ``backbone.device`` of one whose network was trained: on CUDA all of it is, on a CPU its last blocks.
    """
    about = about_model(file) or {}
    if about.get("way") == "views":
        return {"model": "a head on views"}
    if "whole" not in about:
        return {}
    told = {"model": "fine-tuned" if about.get("share", 1.0) else "a head alone"}
    return told | {"backbone.device": "cuda" if about["whole"] else "cpu"}


def goes_by_views(folder: Path, identity: str) -> bool:
    """Whether an iteration with this folder trains a head on views, as the one before it did on these weights."""
    before = model_before(folder / "checkpoint")
    return before is not None and way_of(before, identity) == "views"


def load_model(file: Path, store: FeatureStore, views: ViewFeatures) -> FineTuned | ViewModel:
    """A model of an iteration; raises DataError for another file, or one made with another backbone."""
    if (about_model(file) or {}).get("way") == "views":
        return load_view_model(file, views)
    return load_fine_tuned(file, store)

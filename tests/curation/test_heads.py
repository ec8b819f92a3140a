"""A linear head learns from images and, as much less, from copies of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from curation import copies
from curation.copied import CopiedFeatures
from curation.errors import TrainingError
from curation.heads import HeadModel, HeadTrainer
from curation.kept import Kept
from curation.records import Augmentation, Progress, Sample

Floats = npt.NDArray[np.float32]
LABELS = np.arange(40, dtype=np.int64) % 2
SAMPLES = [Sample(f"s{n:02d}", f"{n}.png", Path(f"{n}.png"), "train") for n in range(40)]


class Drawn:
    """One bright or dark pixel an image, and what is measured of it."""

    def pixels(self, samples: list[Sample]) -> npt.NDArray[np.uint8]:
        rows = [SAMPLES.index(s) for s in samples]
        noise = np.random.default_rng(0).integers(0, 60, size=40)
        return (noise + 160 * LABELS)[rows].astype(np.uint8).reshape(-1, 1, 1, 1).repeat(3, axis=3)

    def features(self, samples: list[Sample], progress: Progress | None = None) -> Floats:
        return self.seen(self.pixels(samples))

    def seen(self, pixels: npt.NDArray[np.uint8]) -> Floats:
        values = pixels.reshape(len(pixels), -1).mean(axis=1)[:, None].astype(np.float32)
        return np.concatenate([values, np.sqrt(values), np.full_like(values, 128)], axis=1)


def invert(image: npt.NDArray[np.uint8], seed: int) -> npt.NDArray[np.uint8]:
    return np.asarray(255 - image, dtype=np.uint8)


def trained(
    augmentations: tuple[Augmentation, ...] = (), labels: npt.NDArray[np.int64] = LABELS, class_balance: bool = False
) -> HeadModel:
    source = Drawn()
    trainer = HeadTrainer(CopiedFeatures(source, source.seen, Kept()), class_balance=class_balance)  # type: ignore[arg-type]
    return trainer.train(
        SAMPLES, labels, ("c1", "c2"), seed=0, augmentations=augmentations, checkpoint=Path(), progress=None
    )


def test_a_head_tells_what_it_has_seen_and_one_class_is_refused() -> None:
    assert (trained().predict(SAMPLES).probabilities.argmax(axis=1) == LABELS).all()
    with pytest.raises(TrainingError, match="at least two classes"):
        trained(labels=np.zeros(40, dtype=np.int64))


def test_balanced_classes_weigh_the_same() -> None:
    """One class is a tenth of the images, and the pixels tell nothing."""
    rare = (np.arange(40) // 2 % 10 == 0).astype(np.int64)
    shares = [
        trained(labels=rare, class_balance=balance).predict(SAMPLES).probabilities[:, 1].mean()
        for balance in (False, True)
    ]
    assert shares[0] == pytest.approx(0.1, abs=0.03)
    assert shares[1] == pytest.approx(0.5, abs=0.1)


def test_copies_count_a_quarter_of_the_images_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    """Copies that say the opposite of their images, four for each: counted one by one they would outvote these."""
    opposite = Augmentation("inverted", tuple(s.id for s in SAMPLES), 4, invert)
    told = trained((opposite,)).predict(SAMPLES).probabilities.argmax(axis=1)
    assert (told == LABELS).all()
    monkeypatch.setattr(copies, "COPIES_SHARE", 4.0)
    told = trained((opposite,)).predict(SAMPLES).probabilities.argmax(axis=1)
    assert (told != LABELS).mean() > 0.9

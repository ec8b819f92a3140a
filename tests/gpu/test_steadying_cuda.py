"""A recipe teaches the network on CUDA, in bf16; the twin of ``tests/curation/test_steadying.py``."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from tests_stand_ins import content_id, draw

from curation import features, steadying
from curation.backbone import deterministic, load_backbone
from curation.features import ViewFeatures
from curation.records import Augmentation, Sample
from curation.steadying import ViewTeacher

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")]


def invert(image: npt.NDArray[np.uint8], seed: int) -> npt.NDArray[np.uint8]:
    return np.asarray(255 - image, dtype=np.uint8)


def test_copies_are_seen_as_their_images_are_each_time_alike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "_SMALLEST_VIEW", 64)
    monkeypatch.setattr(steadying, "SHOWN", 20 * 2 * 60)
    monkeypatch.setattr(steadying, "RATE", 5e-4)
    with deterministic(True):
        views = ViewFeatures(load_backbone(size=64, device="cuda"), tmp_path / "views")
    (tmp_path / "pictures").mkdir()
    paths = list(draw(tmp_path / "pictures", 80))
    samples = [
        Sample(content_id(file), file.name, file, "train") for file in (tmp_path / "pictures" / p for p in paths)
    ]
    copies = Augmentation("inverted", (), 1, invert)
    files = [
        ViewTeacher(views, tmp_path / name, deterministic=True).taught(samples[:60], copies, 0) for name in ("a", "b")
    ]
    assert files[0] is not None
    assert files[1] is not None
    assert files[0].read_bytes() == files[1].read_bytes()
    after, unseen = steadying.seen_by(views, files[0]), samples[60:]
    inverted = np.stack([invert(image, 0) for image in views.pixels(unseen)])
    wanted = views.features(unseen)
    deviation = wanted.std(axis=0)
    told = deviation > 1e-3

    def apart(seen: npt.NDArray[np.float32]) -> float:
        return float((((seen - wanted)[:, told] / deviation[told]) ** 2).mean())

    found = [apart(by.encode(lambda side: features.resized(inverted, side))) for by in (views, after)]
    assert found[1] < 0.6 * found[0]

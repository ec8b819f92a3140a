"""Judging labels with features on disk: the same answers as in memory, whatever the blocks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from curation import scoring, streaming
from curation.engine import LocalEngine
from curation.errors import InputError, RecordError
from curation.regression import LeaveOutKernel
from curation.scaling import part_weights, scale
from curation.scoring import label_quality
from curation.streaming import score_streaming


def crowd(count: int = 900, classes: int = 3) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features, labels of which 15 % are wrong, and the true ones."""
    rng = np.random.default_rng(0)
    truth = np.arange(count) % classes
    features = rng.normal(size=(classes, 16))[truth] * 1.5 + rng.normal(size=(count, 16))
    labels = np.where(rng.random(count) < 0.15, (truth + 1) % classes, truth)
    return features.astype(np.float32), labels.astype(np.int64), truth


@pytest.mark.parametrize("parts", [1, 2])
def test_the_first_round_is_that_of_the_kernel_in_memory(parts: int) -> None:
    """With every sample a landmark both are exact."""
    features, labels, _ = crowd(300)
    groups = np.arange(300, dtype=np.int64) // 2
    widths = (2, features.shape[1] - 2) if parts == 2 else (features.shape[1],)
    weights = part_weights(widths, features.shape[1])
    kernel = streaming._StreamedKernel(features, labels, 3, groups, weights, 0, None, LocalEngine())
    noise = kernel.choose()
    found = kernel.probabilities(labels, 1)
    memory = LeaveOutKernel(scale(features, widths), 3, groups, 0)
    memory._noise = noise
    assert np.allclose(found, memory.probabilities(labels, labels), atol=5e-3)


def test_what_memory_refuses_is_refused_from_disk() -> None:
    features, labels, _ = crowd(30)
    with pytest.raises(InputError, match="all of one class"):
        score_streaming(features, labels * 0, 3, seed=0)
    with pytest.raises(RecordError, match="labels must be columns 0 to 1, got 0 to 2"):
        score_streaming(features, labels, 2, seed=0)
    with pytest.raises(RecordError, match="groups"):
        score_streaming(features, labels, 3, groups=np.arange(29), seed=0)


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    features, labels, _ = crowd()
    groups = np.random.default_rng(0).integers(300, size=900)
    whole = score_streaming(features, labels, 3, groups=groups, seed=0).probabilities
    monkeypatch.setattr(streaming, "BLOCK", 64)
    told: list[tuple[str, int, int]] = []
    parts = score_streaming(
        features, labels, 3, groups=groups, seed=0, progress=lambda *given: told.append(given)
    ).probabilities
    assert np.allclose(whole, parts, atol=2e-3)
    assert np.allclose(parts.sum(axis=1), 1)
    assert {(done, total) for _, done, total in told} >= {(900, 900)}


class Read:
    """Features that remember how many rows were read at once."""

    ndim = 2

    def __init__(self, features: np.ndarray) -> None:
        self._features, self.shape, self.most = features, features.shape, 0

    def __getitem__(self, rows: slice | np.ndarray) -> np.ndarray:
        found = self._features[rows]
        self.most = max(self.most, len(found))
        return found


def test_no_more_is_read_at_once_where_groups_are_few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of fewer than a thousand groups all are what settings are chosen by."""
    features, labels, _ = crowd()
    groups = np.arange(900) % 30
    whole = score_streaming(features, labels, 3, groups=groups, seed=0)
    monkeypatch.setattr(streaming, "BLOCK", 64)
    monkeypatch.setattr(streaming, "LANDMARKS", 60)
    read = Read(features)
    found = score_streaming(read, labels, 3, groups=groups, seed=0)
    assert read.most <= 64 + 30, "a block, to the end of its last group"
    assert (found.probabilities.argmax(axis=1) == whole.probabilities.argmax(axis=1)).mean() > 0.9


def test_half_precision_on_disk_ranks_like_the_ensemble_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streaming, "LANDMARKS", 300)
    features, labels, truth = crowd(3000)
    stored = np.memmap(tmp_path / "features.f16", dtype=np.float16, mode="w+", shape=features.shape)
    stored[:] = features
    out = score_streaming(stored, labels, 3, seed=0)
    of = scoring.score_out_of_sample(features, labels, 3, groups=np.arange(3000), seed=0)
    streamed, memory = (
        average_precision_score(labels != truth, -label_quality(o.probabilities, labels)) for o in (out, of)
    )
    assert streamed > memory - 0.01
    assert out.settings["landmarks"] == 300


def test_a_twin_does_not_give_the_label_away() -> None:
    rng = np.random.default_rng(0)
    features = np.repeat(rng.normal(size=(150, 16)), 2, axis=0).astype(np.float32)
    labels = np.repeat(rng.integers(2, size=150), 2)
    own = np.arange(300), labels
    apart = score_streaming(features, labels, 2, seed=0).probabilities[own].mean()
    together = score_streaming(features, labels, 2, groups=np.arange(300) // 2, seed=0).probabilities[own].mean()
    assert apart > 0.6
    assert together < 0.53


@pytest.mark.parametrize("apart", [1e-4, 3e-5])
def test_images_nearly_all_alike_are_judged_too(apart: float) -> None:
    """Shots of one thing but for fifty: most distances are rounding, from which no kernel can be made as it is."""
    rng = np.random.default_rng(0)
    features = (rng.normal(size=64) + apart * rng.normal(size=(1200, 64))).astype(np.float32)
    features[:60] = rng.normal(size=(60, 64))
    found = score_streaming(features, np.arange(1200) % 2, 2, seed=0).probabilities
    assert abs(found[60:] - 0.5).max() < 0.1


def test_a_number_that_is_not_finite_is_refused_with_its_row() -> None:
    features, labels, _ = crowd(90)
    features[17, 3] = np.nan
    with pytest.raises(RecordError, match="row 17 "):
        score_streaming(features, labels, 3, seed=0)

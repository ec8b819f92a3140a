"""Training anew without each fold: who judges whom, what is kept, what is refused."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from curation.crossval import cross_validate
from curation.errors import InputError, RecordError
from curation.records import Predictions, Sample
from curation.scoring import label_quality

IDS = ("c1", "c2", "c3")


def crowd(count: int = 60) -> tuple[list[Sample], np.ndarray, np.ndarray]:
    """Samples, their true classes, and features of three clusters."""
    truth = np.arange(count) % 3
    features = np.random.default_rng(0).normal(size=(count, 4)) + 6 * np.eye(3, 4)[truth]
    return [Sample(f"s{n:03d}", f"{n}.jpg", Path(f"{n}.jpg"), "train") for n in range(count)], truth, features


class Centroids:
    """The mean of each class; remembers whom it was taught, and may be stopped after some folds."""

    def __init__(self, features: np.ndarray, stops_after: int | None = None) -> None:
        self.features = features
        self.taught: list[set[str]] = []
        self.asked: list[set[str]] = []
        self.stops_after = stops_after

    def train(
        self, samples: Sequence[Sample], labels: np.ndarray, class_ids: Sequence[str], **_given: Any
    ) -> Centroids:
        if len(self.taught) == self.stops_after:
            raise KeyboardInterrupt
        self.taught.append({s.id for s in samples})
        rows = np.array([int(s.id[1:]) for s in samples])
        self.means = np.stack([self.features[rows[labels == c]].mean(axis=0) for c in range(len(class_ids))])
        return self

    def predict(self, samples: Sequence[Sample], progress: Any = None) -> Predictions:
        self.asked.append({s.id for s in samples})
        rows = np.array([int(s.id[1:]) for s in samples])
        near = np.exp(-((self.features[rows][:, None] - self.means) ** 2).sum(axis=2))
        near = (near + 1e-9) / (near + 1e-9).sum(axis=1, keepdims=True)
        return Predictions(tuple(s.id for s in samples), IDS, near, np.zeros(len(samples), dtype=np.int64))


def judge(learner: Centroids, folder: Path, labels: np.ndarray, samples: list[Sample], **changes: Any) -> Any:
    given = {"groups": np.arange(len(samples)) // 2, "folds": 5, "seed": 0} | changes
    return cross_validate(learner, samples, labels, IDS, folder=folder, **given)


def test_nobody_judges_what_it_was_taught_and_groups_stay_together(tmp_path: Path) -> None:
    samples, truth, features = crowd()
    learner = Centroids(features)
    out = judge(learner, tmp_path, truth, samples)
    assert len(learner.taught) == 5
    assert all(not taught & asked for taught, asked in zip(learner.taught, learner.asked, strict=True))
    assert set.union(*learner.asked) == {s.id for s in samples}
    assert (out.folds[::2] == out.folds[1::2]).all()
    assert np.allclose(out.probabilities.sum(axis=1), 1)


def test_wrong_labels_are_ranked_worst(tmp_path: Path) -> None:
    samples, truth, features = crowd()
    labels = truth.copy()
    labels[[3, 30]] = (truth[[3, 30]] + 1) % 3
    out = judge(Centroids(features), tmp_path, labels, samples)
    assert set(np.argsort(label_quality(out.probabilities, labels))[:2]) == {3, 30}


def test_a_stopped_run_goes_on_with_the_next_fold(tmp_path: Path) -> None:
    samples, truth, features = crowd()
    whole = judge(Centroids(features), tmp_path / "whole", truth, samples).probabilities
    with pytest.raises(KeyboardInterrupt):
        judge(Centroids(features, stops_after=3), tmp_path / "parts", truth, samples)
    later = Centroids(features)
    assert np.array_equal(judge(later, tmp_path / "parts", truth, samples).probabilities, whole)
    assert len(later.taught) == 2


@pytest.mark.parametrize("what", ["labels", "seed", "folds"])
def test_what_was_kept_serves_the_same_question_only(tmp_path: Path, what: str) -> None:
    samples, truth, features = crowd()
    judge(Centroids(features), tmp_path, truth, samples)
    labels = np.roll(truth, 1) if what == "labels" else truth
    again = Centroids(features)
    judge(again, tmp_path, labels, samples, **({what: 3} if what != "labels" else {}))
    assert len(again.taught) == (3 if what == "folds" else 5)


def test_fewer_groups_than_folds_make_fewer_folds(tmp_path: Path) -> None:
    samples, truth, features = crowd()
    learner = Centroids(features)
    judge(learner, tmp_path, truth, samples, groups=np.arange(60) % 2)
    assert len(learner.taught) == 2


def test_what_no_model_can_judge_is_refused(tmp_path: Path) -> None:
    samples, truth, features = crowd()
    with pytest.raises(RecordError, match="labels must be columns 0 to 2"):
        judge(Centroids(features), tmp_path, truth + 1, samples)
    with pytest.raises(InputError, match="without one fold labels are all of one class"):
        judge(Centroids(features), tmp_path, np.arange(60) // 30, samples, groups=np.arange(60) // 30)

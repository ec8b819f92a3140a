"""Which way a model is trained is decided once, by the part set apart, and kept."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save

from curation import ways
from curation.ways import EitherTrainer, goes_by_views, model_before, way_of

LABELS = np.arange(400) % 2
#: About a mean of 0; its standard error is 0.0146.
SPREAD = 0.1 * np.where(np.arange(48) % 2, 1, -1)


@dataclass
class Model:
    name: str
    losses: Any = None
    words: str = "trained"


@dataclass
class Tuner:
    loss: float = 0.5
    trained: int = 0

    def train(self, *given: Any, **how: Any) -> Model:
        self.trained += 1
        return Model("tuned", self.loss + SPREAD)


@dataclass
class Viewer:
    """``found`` is the log loss on the part set apart; ``judged`` says how many rows that had."""

    found: float = 0.4
    trained: int = 0
    judged: list[int] = field(default_factory=list)
    views: Any = field(default_factory=lambda: SimpleNamespace(backbone=SimpleNamespace(identity="weights")))

    def group(self, samples: Any) -> Any:
        return np.arange(len(samples))

    def train(self, *given: Any, **how: Any) -> Model:
        self.trained += 1
        return Model("viewed")

    def losses(self, samples: Any, labels: Any, n_classes: int, held: Any, seed: int) -> Any:
        self.judged.append(int(held.sum()))
        return np.full(48, self.found)


def trained(tuner: Tuner, viewer: Viewer, checkpoint: Path, labels: np.ndarray[Any, Any] = LABELS) -> tuple[str, str]:
    model: Any = EitherTrainer(tuner, viewer).train(  # type: ignore[arg-type]
        [None] * len(labels), labels, ("a", "b"), seed=0, augmentations=(), checkpoint=checkpoint, progress=None  # type: ignore[list-item]
    )  # fmt: skip
    return model.name, model.words


def keep(folder: Path, **about: Any) -> None:
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(
        save({"a": np.zeros(1)}, metadata={"curation": json.dumps({"identity": "weights", **about})})
    )


def test_the_first_time_fine_tuning_must_do_better_by_a_standard_error_and_both_are_told(tmp_path: Path) -> None:
    first = tmp_path / "000" / "checkpoint"
    viewer = Viewer(found=0.4)
    name, words = trained(Tuner(loss=0.5), viewer, first)
    assert (name, viewer.judged) == ("viewed", [48])
    assert words == "trained; on the part set apart it has a log loss of 0.400, fine-tuning 0.500"
    name, words = trained(Tuner(loss=0.3), Viewer(found=0.4), first)
    assert name == "tuned"
    assert words == "trained; on the part set apart a head on views has a log loss of 0.400, fine-tuning 0.300"
    assert trained(Tuner(loss=0.39), Viewer(found=0.4), first)[0] == "viewed"
    assert trained(Tuner(loss=0.38), Viewer(found=0.4), first)[0] == "tuned"


@pytest.mark.parametrize("way", ["views", "fine-tune"])
def test_later_iterations_go_the_same_way_without_a_trial(tmp_path: Path, way: str) -> None:
    keep(tmp_path / "000", **({"way": "views"} if way == "views" else {}))
    tuner, viewer = Tuner(loss=9.0 if way == "fine-tune" else 0.0), Viewer()
    name, words = trained(tuner, viewer, tmp_path / "001" / "checkpoint")
    assert name == ("viewed" if way == "views" else "tuned")
    assert (tuner.trained, viewer.trained) == ((0, 1) if way == "views" else (1, 0))
    assert words == "trained"
    assert viewer.judged == []


def test_a_model_of_other_weights_decides_nothing(tmp_path: Path) -> None:
    keep(tmp_path / "000", way="fine-tune", identity="others")
    assert trained(Tuner(), Viewer(), tmp_path / "001" / "checkpoint")[0] == "viewed"
    assert way_of(tmp_path / "000" / "model.safetensors", "weights") is None
    assert way_of(tmp_path / "nowhere", "weights") is None


def test_a_fold_of_a_cross_validation_trains_the_network(tmp_path: Path) -> None:
    viewer = Viewer()
    assert trained(Tuner(), viewer, tmp_path / "folds" / "9f8e" / "fold-0")[0] == "tuned"
    assert viewer.judged == []


def test_few_images_have_a_head_and_very_many_are_fine_tuned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = tmp_path / "000" / "checkpoint"
    tuner = Tuner(loss=0.1)
    assert trained(tuner, Viewer(), first, LABELS[:60])[0] == "viewed"
    assert tuner.trained == 0, "what nothing can be compared by need not be trained"
    monkeypatch.setattr(ways, "MOST_ROWS", 300)
    assert trained(Tuner(loss=9.0), Viewer(found=0.1), first)[0] == "tuned"


def test_what_lay_before_a_checkpoint_is_that_of_the_iteration_before() -> None:
    assert model_before(Path("iterations/012/checkpoint")) == Path("iterations/011/model.safetensors")
    assert model_before(Path("folds/9f8e7d6c5b4a/fold-0")) is None


@pytest.mark.parametrize("way", ["views", "fine-tune"])
def test_an_iteration_goes_by_views_where_the_one_before_did_on_the_same_weights(tmp_path: Path, way: str) -> None:
    keep(tmp_path / "000", way=way)
    assert goes_by_views(tmp_path / "001", "weights") is (way == "views")
    assert not goes_by_views(tmp_path / "001", "others")
    assert not goes_by_views(tmp_path / "002", "weights"), "nothing lies before it"

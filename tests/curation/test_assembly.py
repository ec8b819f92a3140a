"""The parts are put together as the loop needs them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from curation import training
from curation.assembly import Encoders, _FineTuner, make_parts
from curation.config import DetectionSettings, Settings, SliceSettings, TrainingSettings
from curation.errors import ConfigError
from curation.records import Classes, Sample
from curation.repairing import Repairer
from curation.runs import ProjectPaths


@pytest.mark.parametrize(
    ("checkpoint", "before"),
    [
        ("iterations/001/checkpoint", "iterations/000/model.safetensors"),
        ("iterations/012/checkpoint", "iterations/011/model.safetensors"),
        ("folds/9f8e7d6c5b4a/fold-0.safetensors", None),
    ],
)
def test_a_model_is_told_of_the_one_of_the_iteration_before(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, checkpoint: str, before: str | None
) -> None:
    told: list[Any] = []
    monkeypatch.setattr(training, "fine_tune", lambda *given, **more: told.append((more["before"], more["groups"])))
    store = SimpleNamespace(backbone=SimpleNamespace(device="cpu"))
    groups = np.array([7, 7])
    _FineTuner(store, Settings(), lambda samples: groups).train(
        [], np.zeros(0, dtype=np.int64), (), seed=0, augmentations=(), checkpoint=tmp_path / checkpoint, progress=None
    )
    assert told == [(tmp_path / before if before else None, groups)]


def test_recipe_that_can_not_be_carried_out_is_told_before_anything_runs(tmp_path: Path) -> None:
    (tmp_path / "own.toml").write_text(
        "[[recipe]]\nname = 'night'\nweakness = 'dark'\nsteps = [{transform = 'RandmGamma'}]\n"
    )
    settings = replace(Settings(), slices=SliceSettings(recipes="own.toml"))
    backbone = SimpleNamespace(device=SimpleNamespace(type="cpu"), identity="none")
    store: Any = SimpleNamespace(
        backbone=backbone, widths=(), pixels=SimpleNamespace(pixels=None), for_labels=lambda samples: None
    )
    with pytest.raises(ConfigError, match=r"own\.toml: recipe 'night': albumentations has no transform 'RandmGamma'"):
        make_parts(Encoders(store, store, None), ProjectPaths(tmp_path), settings, [], Classes((), ()), None)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("stability", "device", "images", "method", "views", "taught"),
    [("auto", "cpu", 3, "auto", "many", True), ("auto", "cpu", 4, "auto", "many", False),
     ("auto", "cuda", 4, "views", "many", True), ("on", "cpu", 4, "views", "many", True),
     ("off", "cuda", 3, "auto", "many", False), ("on", "cpu", 3, "fine-tune", "many", False),
     ("on", "cpu", 3, "auto", "one", False)],
)  # fmt: skip
def test_a_recipe_teaches_the_network_where_a_head_on_views_is_trained_and_looking_anew_is_cheap(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stability: str, device: str, images: int, method: str,
    views: str, taught: bool,
) -> None:  # fmt: skip
    monkeypatch.setattr("curation.assembly.MOST_SEEN_ANEW", 3)
    settings = replace(
        Settings(), slices=SliceSettings(stability=stability), training=TrainingSettings(method=method),
        detection=DetectionSettings(views=views),
    )  # fmt: skip
    backbone = SimpleNamespace(device=SimpleNamespace(type=device), identity="none")
    store: Any = SimpleNamespace(
        backbone=backbone, widths=(), pixels=SimpleNamespace(pixels=None), features=None, encode=None,
        for_labels=lambda samples: None,
    )  # fmt: skip
    samples = [Sample(f"s{n}", f"{n}.png", tmp_path / f"{n}.png", "train") for n in range(images)]
    encoders: Any = Encoders(store, store, None)
    parts = make_parts(encoders, ProjectPaths(tmp_path), settings, samples, Classes((), ()), None)  # type: ignore[arg-type]
    assert isinstance(parts.repair, Repairer)
    assert (parts.repair.teacher is not None) is taught

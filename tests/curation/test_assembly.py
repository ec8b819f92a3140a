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
from curation.config import Settings, SliceSettings
from curation.errors import ConfigError
from curation.records import Classes
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
    store: Any = SimpleNamespace(backbone=backbone, widths=(), pixels=SimpleNamespace(pixels=None))
    with pytest.raises(ConfigError, match="recipe 'night': albumentations has no transform 'RandmGamma'"):
        make_parts(Encoders(store, store, None), ProjectPaths(tmp_path), settings, [], Classes((), ()), None)  # type: ignore[arg-type]

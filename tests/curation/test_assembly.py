"""The parts are put together as the loop needs them."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from curation import training
from curation.assembly import _FineTuner
from curation.config import Settings


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

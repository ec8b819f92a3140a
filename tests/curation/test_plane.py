"""Points of images on a plane."""

from __future__ import annotations

import numpy as np
import pytest

from curation import plane
from curation.plane import principal_plane


def test_groups_that_differ_are_apart_whatever_the_size_of_a_block(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    features = rng.normal(size=(60, 16)).astype(np.float32)
    features[30:, 3] += 20
    points = principal_plane(features)
    assert points.shape == (60, 2)
    assert abs(points[:30, 0].mean() - points[30:, 0].mean()) > 1.9
    assert np.allclose(points.std(axis=0), 1)
    monkeypatch.setattr(plane, "_BLOCK", 7)
    assert np.allclose(principal_plane(features), points)


def test_features_that_say_nothing_are_one_point() -> None:
    assert principal_plane(np.ones((5, 4), dtype=np.float32)).tolist() == [[0, 0]] * 5
    assert principal_plane(np.zeros((0, 4), dtype=np.float32)).shape == (0, 2)
    assert principal_plane(np.array([[1.0], [3.0]], dtype=np.float32)).tolist() == [[-1, 0], [1, 0]]

"""Points of images on a plane."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from curation import plane
from curation.plane import neighbour_plane, principal_plane


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


@pytest.mark.e2e  # no service, but UMAP compiles itself for tens of seconds
def test_neighbours_stay_together_where_components_cannot_tell_them_apart(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    middles = 10 * np.eye(8, 24)
    group = np.repeat(np.arange(8), 65)
    features = (middles[group] + rng.normal(size=(520, 24))).astype(np.float32)
    assert share_of_own(principal_plane(features), group) < 0.9, "eight corners do not fit onto a plane of components"
    points = neighbour_plane(features, tmp_path)
    assert points is not None
    assert points.shape == (520, 2)
    assert share_of_own(points, group) > 0.98


def share_of_own(points: npt.NDArray[np.float64], group: npt.NDArray[np.int64]) -> float:
    """How many of the points have a nearest one of their own group."""
    away = np.linalg.norm(points[:, None] - points[None], axis=2)
    np.fill_diagonal(away, np.inf)
    return float((group[away.argmin(axis=1)] == group).mean())


def test_points_of_the_same_features_are_read_again_and_a_damaged_file_is_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    features = np.random.default_rng(1).normal(size=(40, 6)).astype(np.float32)
    monkeypatch.setattr(plane, "FEWEST_NEIGHBOURS", 40)
    placed = list[npt.NDArray[np.float64]]()
    monkeypatch.setattr(plane, "_placed_by_umap", lambda rows: placed.append(rows) or rows[:, :2])
    first = neighbour_plane(features, tmp_path)
    second = neighbour_plane(features, tmp_path)
    assert first is not None
    assert second is not None
    assert second.tolist() == first.tolist()
    assert len(placed) == 1
    [file] = tmp_path.iterdir()
    file.write_bytes(b"\x93NUMPY cut off")
    assert neighbour_plane(features, tmp_path) is not None
    assert neighbour_plane(features + 1, tmp_path) is not None
    assert len(placed) == 3


def test_images_are_not_placed_where_umap_is_missing_or_their_number_does_not_suit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plane, "_placed_by_umap", lambda rows: rows[:, :2])
    features = np.random.default_rng(1).normal(size=(500, 6)).astype(np.float32)
    assert neighbour_plane(features[:499], tmp_path) is None
    assert neighbour_plane(features, tmp_path) is not None
    monkeypatch.setattr(plane, "MOST_NEIGHBOURS", 499)
    assert neighbour_plane(features, tmp_path) is None
    monkeypatch.undo()
    monkeypatch.setattr(plane, "_umap_version", lambda: "")
    assert neighbour_plane(features, tmp_path) is None

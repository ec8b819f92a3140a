"""Nearest neighbours, near-duplicates and their groups."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from curation import neighbours
from curation.neighbours import group_near_duplicates, join_groups, near_duplicate_pairs, nearest_neighbours


def cloud(count: int) -> np.ndarray:
    """Features around three centres."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(3, 12)) * 2
    return (centres[np.arange(count) % 3] + 2 * rng.normal(size=(count, 12))).astype(np.float32)


def test_copies_with_a_little_noise_share_a_group() -> None:
    features = cloud(100)
    rng = np.random.default_rng(0)
    copies = features[:5] + 0.02 * rng.normal(size=(5, 12)).astype(np.float32)
    groups = group_near_duplicates(np.concatenate([features, copies]))
    assert (groups[:5] == groups[100:]).all()
    assert len(set(groups[:100].tolist())) == 100


def test_a_set_of_alike_images_is_not_one_group() -> None:
    """Cells of one panel differ little from one another: what is usual in the set decides, not a fixed cosine."""
    rng = np.random.default_rng(0)
    cells = rng.normal(size=(1, 64)) * 10 + np.concatenate([np.zeros((60, 64)), 16 + np.zeros((60, 64))])
    features = (cells + rng.normal(size=(120, 64))).astype(np.float32)
    assert np.median(nearest_neighbours(features, 1)[1]) > 0.98
    assert len(set(group_near_duplicates(features).tolist())) == 120


def test_groups_join_over_several_steps() -> None:
    assert join_groups(6, [(0, 1), (4, 5), (1, 4)]).tolist() == [0, 0, 1, 2, 0, 0]


def test_pairs_are_found_across_blocks() -> None:
    rng = np.random.default_rng(0)
    features = rng.normal(size=(2100, 16)).astype(np.float32)
    features[2050] = features[3] * 1.0001
    assert [(left, right) for left, right, _ in near_duplicate_pairs(features, 0.9999)] == [(3, 2050)]


def test_constant_features_are_no_duplicates_of_one_another() -> None:
    assert len(set(group_near_duplicates(np.ones((10, 4), dtype=np.float32)).tolist())) == 10


@pytest.mark.parametrize("count", [0, 1, 2])
def test_tiny_sets_are_fine(count: int) -> None:
    assert group_near_duplicates(np.eye(2, dtype=np.float32)[:count]).shape == (count,)


def test_neighbours_are_those_of_a_full_search() -> None:
    features = cloud(50)
    rows, cosines = nearest_neighbours(features, 4, block=7)
    unit = features - features.mean(axis=0)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    similar = unit @ unit.T - 9 * np.eye(50)
    assert (rows == np.argsort(-similar, axis=1)[:, :4]).all()
    np.testing.assert_allclose(cosines, -np.sort(-similar, axis=1)[:, :4], atol=1e-5)


def test_the_nearest_alone_is_the_first_of_several_and_of_equals_the_first_row() -> None:
    features = np.random.default_rng(3).normal(size=(40, 6)).astype(np.float32)
    features[[30, 11]] = features[2]
    for block in (7, 64):
        rows, cosines = nearest_neighbours(features, 1, block=block)
        several = nearest_neighbours(features, 3)
        assert rows[2, 0] == 11
        assert rows[[11, 30], 0].tolist() == [2, 2]
        others = np.setdiff1d(np.arange(40), [2, 11, 30])
        assert rows[others, 0].tolist() == several[0][others, 0].tolist()
        assert np.allclose(cosines[:, 0], several[1][:, 0], atol=1e-6)
    assert nearest_neighbours(features[:1], 1)[0].shape == (1, 0)


def test_beyond_the_limit_twins_are_found_and_cosines_are_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    """Faiss looks for them; 2,000 samples of six dimensions that vary, with 40 twins."""
    rng = np.random.default_rng(0)
    features = (rng.normal(size=(2000, 6)) @ rng.normal(size=(6, 40))).astype(np.float32)
    features[1000:1040] = features[:40] + 0.01 * rng.normal(size=(40, 40)).astype(np.float32)
    exact = near_duplicate_pairs(features)
    near, cosines = nearest_neighbours(features, 5)
    monkeypatch.setattr(neighbours, "EXACT", 1999)
    assert [pair[:2] for pair in near_duplicate_pairs(features)] == [pair[:2] for pair in exact]
    assert {(row, row + 1000) for row in range(40)} <= {pair[:2] for pair in exact}
    found, alike = nearest_neighbours(features, 5)
    assert (found == near).mean() > 0.95
    same = found == near
    np.testing.assert_allclose(alike[same], cosines[same], atol=1e-5)


def test_a_neighbour_that_was_not_found_is_the_sample_itself_at_the_far_end() -> None:
    unit = neighbours.unit_directions(cloud(6))
    rows, cosines = neighbours._exactly(unit, np.array([[1, -1]] * 6), 2)
    assert rows[:, 1].tolist() == list(range(6))
    assert (cosines[:, 1] == -1).all()


def crowd(count: int, alike: int) -> np.ndarray:
    """Features of which so many in two groups, one after the other, are alike."""
    rng = np.random.default_rng(0)
    features = rng.normal(size=(count, 64)).astype(np.float32)
    features[:alike] = features[np.arange(alike) % 2] + 0.03 * rng.normal(size=(alike, 64))
    return features


def every_pair(features: np.ndarray, least: float) -> dict[tuple[int, int], float]:
    unit = neighbours.unit_directions(features)
    similar = unit @ unit.T
    left, right = np.nonzero(np.triu(similar >= least, k=1))
    cosines = similar[left, right].tolist()
    return dict(zip(zip(left.tolist(), right.tolist(), strict=True), cosines, strict=True))


def test_of_a_crowd_that_looks_alike_the_likest_pairs_are_listed_and_groups_stay(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(neighbours, "LISTED", 2000)
    monkeypatch.setattr(neighbours, "MOST_TWINS", 10)
    features = crowd(700, 300)
    of = np.arange(700) % 3
    every = every_pair(features, 0.99)
    listed = near_duplicate_pairs(features, 0.99, of)
    pairs = [pair[:2] for pair in listed]
    assert len(every) == 2 * 150 * 149 / 2
    assert len(pairs) < 300 * 3 * neighbours.MOST_TWINS < len(every)
    assert pairs == sorted(pairs)
    assert set(pairs) <= set(every)
    assert join_groups(700, pairs).tolist() == join_groups(700, list(every)).tolist()
    for row in range(300):
        for part in range(3):
            twins = {p: c for p, c in every.items() if row in p and of[sum(p) - row] == part}
            likest = sorted(twins, key=lambda pair: -twins[pair])[:9]  # of two at the edge rounding decides
            assert set(likest) <= set(pairs)


def test_groups_of_a_crowd_stay_where_its_likest_twins_do_not_reach_from_one_part_to_the_other() -> None:
    rng = np.random.default_rng(0)
    features = rng.normal(size=(400, 64)).astype(np.float32)
    features[:200] = features[0] + 1e-3 * rng.normal(size=(200, 64))
    features[100:200] += 0.05 * rng.normal(size=64)
    groups = group_near_duplicates(features, 0.95)
    assert len(set(groups[:200].tolist())) == 1
    assert len(set(groups.tolist())) == 201


def test_ordinary_twins_are_listed_all() -> None:
    features = crowd(600, 40)
    assert {pair[:2]: pair[2] for pair in near_duplicate_pairs(features, 0.99)} == pytest.approx(
        every_pair(features, 0.99)
    )


def test_a_crowd_takes_bounded_memory() -> None:
    features = crowd(2000, 1500)
    tracemalloc.start()
    pairs = near_duplicate_pairs(features, 0.99)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(pairs) <= 1500 * neighbours.MOST_TWINS
    assert peak < 80e6

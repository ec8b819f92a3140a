"""Features and activations are computed once, survive a crash, and belong to one backbone and size."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests_stand_ins import content_id, draw

from curation import features
from curation.backbone import Backbone, load_backbone
from curation.features import FeatureStore, RowFile, ViewFeatures
from curation.images import PixelCache
from curation.records import Sample


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return load_backbone(size=64)


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> list[Sample]:
    folder = tmp_path_factory.mktemp("pictures")
    return [Sample(content_id(folder / p), p, folder / p, "train") for p in draw(folder, 40)]


def make(backbone: Backbone, folder: Path) -> FeatureStore:
    return FeatureStore(backbone, PixelCache(folder / "pixels", backbone.size), folder / "features")


def test_features_are_computed_once_and_kept_in_order(
    backbone: Backbone, samples: list[Sample], tmp_path: Path
) -> None:
    told: list[tuple[str, int, int]] = []
    first = make(backbone, tmp_path).features(samples, lambda *given: told.append(given))
    assert first.shape == (40, 1280)
    assert first.dtype == np.float32
    assert told[-1] == ("computing features", 40, 40)
    told.clear()
    again = make(backbone, tmp_path).features(samples[::-1], lambda *given: told.append(given))
    assert np.array_equal(again[::-1], first)
    assert not told


def test_features_and_activations_are_of_the_same_pass(
    backbone: Backbone, samples: list[Sample], tmp_path: Path
) -> None:
    store = make(backbone, tmp_path)
    found = store.activations(samples[:4])
    assert found.dtype == np.float16
    with torch.inference_mode():
        tail = backbone.tail(torch.from_numpy(found).float().to(backbone.device)).cpu().numpy()
    assert np.allclose(tail, store.features(samples[:4]), atol=0.02)


def test_images_of_no_sample_are_encoded_alike(backbone: Backbone, samples: list[Sample], tmp_path: Path) -> None:
    store = make(backbone, tmp_path)
    pooled, maps = store.encode(np.array(store.pixels.pixels(samples)))
    assert np.allclose(pooled, store.features(samples), atol=1e-3)
    assert np.allclose(maps, store.activations(samples), atol=0.02)
    assert [part.shape for part in store.encode(np.zeros((0, 64, 64, 3), np.uint8))] == [(0, 1280), (0, 192, 2, 2)]


def test_a_stopped_computation_goes_on_where_it_stopped(
    backbone: Backbone, samples: list[Sample], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(features, "KEPT_EVERY", 16)
    monkeypatch.setattr(features, "BATCH", {"cpu": 8, "cuda": 8})

    def stop(what: str, done: int, total: int) -> None:
        if done == 24:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make(backbone, tmp_path).features(samples, stop)
    told: list[int] = []
    resumed = make(backbone, tmp_path).features(samples, lambda what, done, total: told.append(total))
    assert set(told) == {24}, "the 16 that were kept are not computed again"
    assert np.allclose(resumed, make(backbone, tmp_path / "other").features(samples), atol=1e-4)


def test_another_backbone_or_size_shares_nothing(backbone: Backbone, samples: list[Sample], tmp_path: Path) -> None:
    small = make(backbone, tmp_path).features(samples[:2])
    other = FeatureStore(load_backbone(size=96), PixelCache(tmp_path / "pixels", 96), tmp_path / "features")
    assert not np.allclose(other.features(samples[:2]), small, atol=1e-3)


def test_one_picture_given_twice_is_one_row(backbone: Backbone, samples: list[Sample], tmp_path: Path) -> None:
    store = make(backbone, tmp_path)
    found = store.features([samples[0], samples[1], samples[0]])
    assert np.array_equal(found[0], found[2])
    assert len(RowFile(next((tmp_path / "features").rglob("features.f32")), (1280,), np.float32).index()) == 2


#: Of three stages of 40, 112 and 320 channels: how those of the second go together, and the middle of two.
PAIRS = 112 * 111 // 2
#: Pooled features; then mean, deviation and maximum of the three; then these.
WIDTH = 1280 + 3 * (40 + 112 + 320) + PAIRS + 112 + 320


def test_images_that_mean_the_same_turned_are_looked_at_upside_down_in_smaller_views(
    backbone: Backbone, samples: list[Sample], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(features, "_SMALLEST_VIEW", 64)
    some = samples[:3]
    views = ViewFeatures(replace(backbone, size=64), tmp_path, rotation_invariant=True)
    assert views.turned == [False, True]
    found = views.features(some)
    images = {side: views.decode(some, side) for side in views.sizes}
    assert np.allclose(views.encode(images.__getitem__), found, rtol=2e-3, atol=2e-3), "images that are in no file"
    changed = {64: images[64][:, :, ::-1], 32: images[32][:, ::-1, ::-1]}
    halves = [views.encode(looks.__getitem__, mirror=False) for looks in (images, changed)]
    assert np.allclose((halves[0] + halves[1]) / 2, found, rtol=2e-3, atol=2e-3)
    mirrored = views.looking(rotation_invariant=False).features(some)
    first = sum(views.widths) // 2
    assert np.array_equal(mirrored[:, :first], found[:, :first])
    assert not np.allclose(mirrored[:, first:], found[:, first:], rtol=0.05, atol=0.05)


def test_views_are_means_with_the_mirror_image_at_every_size_and_kept(
    backbone: Backbone, samples: list[Sample], tmp_path: Path
) -> None:
    some = samples[:3]
    views = ViewFeatures(backbone, tmp_path)
    assert [view.size for view, _ in views.views] == [224, 160, 96]
    assert views.widths == 3 * (1280, *3 * (40,), *3 * (112,), *3 * (320,), PAIRS, 112, 320)
    found = views.features(some)
    assert found.shape == (3, 3 * WIDTH)
    store = FeatureStore(views.views[1][0], PixelCache(tmp_path / "pixels", 160), tmp_path / "plain")
    images = np.array(store.pixels.pixels(some))
    expected = (store.encode(images)[0] + store.encode(images[:, :, ::-1])[0]) / 2
    assert np.allclose(found[:, WIDTH : WIDTH + 1280], expected, rtol=2e-3, atol=2e-3)
    inputs = torch.cat([views.views[1][0].normalise(batch) for batch in (images, images[:, :, ::-1])])
    with torch.inference_mode():
        stages = backbone.model.forward_intermediates(inputs, indices=3, intermediates_only=True)
    maps = [stage.numpy().reshape(len(inputs), stage.shape[1], -1) for stage in stages]
    moments = [of(m, axis=2) for m in maps for of in (np.mean, np.std, np.max)]
    pairs = np.stack([np.corrcoef(m)[np.triu_indices(112, 1)] for m in maps[1]])
    middles = [stages[1][:, :, 2:8, 2:8].mean(dim=(2, 3)), stages[2][:, :, 1:4, 1:4].mean(dim=(2, 3))]
    both = np.concatenate([*moments, pairs, *middles], axis=1)
    beside = both.reshape(2, 3, -1).mean(axis=0)
    assert np.allclose(found[:, WIDTH + 1280 : 2 * WIDTH], beside, rtol=2e-3, atol=2e-3)
    encoded = views.encode(lambda side: PixelCache(tmp_path / "pixels", side).decode(some))
    assert np.allclose(encoded, found, rtol=2e-3, atol=2e-3), "kept in half precision"
    upright = {side: views.decode(some, side) for side in views.sizes}
    turned = {side: images[:, :, ::-1] for side, images in upright.items()}
    halves = [views.encode(images.__getitem__, mirror=False) for images in (upright, turned)]
    assert not np.allclose(halves[0], halves[1], rtol=0.1, atol=0.1)
    assert np.allclose((halves[0] + halves[1]) / 2, found, rtol=2e-3, atol=2e-3), "as they are, and turned"
    stored = views.stored(some)
    assert (stored.shape, stored.ndim) == (found.shape, 2)
    assert np.array_equal(stored[1:], found[1:])
    assert np.array_equal(stored[np.array([2, 0])], found[[2, 0]])
    told: list[int] = []
    again = ViewFeatures(backbone, tmp_path).features(some[::-1], lambda what, done, total: told.append(done))
    assert np.array_equal(again[::-1], found)
    assert told == []


def test_one_pass_over_train_images_serves_training_and_judging(
    backbone: Backbone, samples: list[Sample], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(features, "_SMALLEST_VIEW", 64)
    some = [*samples[:3], replace(samples[3], split="holdout")]
    apart = make(backbone, tmp_path / "apart")
    expected = ViewFeatures(backbone, tmp_path / "apart" / "views").features(some)
    store = FeatureStore(
        backbone, PixelCache(tmp_path / "pixels", 64), tmp_path / "features", views=tmp_path / "together"
    )
    assert np.allclose(store.features(some), apart.features(some), atol=1e-3)
    assert np.allclose(store.activations(some), apart.activations(some), atol=0.02)
    told: list[tuple[str, int]] = []
    found = ViewFeatures(backbone, tmp_path / "together").features(
        some, lambda what, done, total: told.append((what, total))
    )
    assert np.allclose(found, expected, rtol=2e-3, atol=2e-3), "kept in half precision"
    assert ("computing features at 64 px", 1) in told, "only the holdout image is left to do at this size"
    assert ("computing features at 64 px", 4) not in told


def test_a_network_made_for_one_size_has_one_view(backbone: Backbone, samples: list[Sample], tmp_path: Path) -> None:
    class OneSize(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            assert images.shape[-1] == 64, "input size must be 64"
            return images.mean(dim=3).flatten(1)

    rigid = replace(backbone, model=OneSize(), feature_size=192, identity="rigid")
    views = ViewFeatures(rigid, tmp_path)
    assert [(view.size, widths) for view, widths in views.views] == [(64, (192,))]
    assert views.features(samples[:2]).shape == (2, 192)


def test_rows_that_were_torn_off_by_a_crash_are_computed_again(tmp_path: Path) -> None:
    file = RowFile(tmp_path / "rows.f32", (3,), np.float32)
    file.append(["a", "b"], np.arange(6).reshape(2, 3))
    with (tmp_path / "rows.f32").open("ab") as out:
        out.write(b"torn")
    file.append(["c"], np.full((1, 3), 9))
    assert file.rows(["c", "a"]).tolist() == [[9, 9, 9], [0, 1, 2]]
    with (tmp_path / "rows.f32").open("r+b") as out:
        out.truncate(5)
    assert file.index() == {}


def test_what_another_process_has_added_meanwhile_is_not_added_twice(tmp_path: Path) -> None:
    ours, theirs = (RowFile(tmp_path / "rows.f32", (1,), np.float32) for _ in range(2))
    theirs.append(["b"], np.array([[2.0]]))
    ours.append(["a", "b"], np.array([[1.0], [2.0]]))
    rows: Any = ours.rows(["a", "b"]).ravel().tolist()
    assert rows == [1.0, 2.0]
    assert len(ours.index()) == 2
    assert (tmp_path / "rows.f32").stat().st_size == 8

"""Photographs are told from turned ones; textures without an upside are not, though a mirror image may be."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image
from tests_stand_ins import content_id

from curation import features
from curation.backbone import Backbone, load_backbone
from curation.features import ViewFeatures
from curation.orientation import have_upside, share_told
from curation.records import Sample

Floats = npt.NDArray[np.float32]


def test_what_is_told_apart_by_a_direction_is_told_nearly_always_and_chance_by_half() -> None:
    rng = np.random.default_rng(0)
    images = rng.normal(size=(150, 30)).astype(np.float32)
    moved = images + rng.normal(size=(150, 30)).astype(np.float32) * 0.3
    by_chance = share_told(images, moved)
    assert 0.35 < by_chance < 0.65
    moved[:, 0] += 1
    assert share_told(images, moved) > 0.95
    assert share_told(images, images) == 0.5, "the same images"


def test_an_upside_is_what_turning_shows_more_than_mirroring() -> None:
    rng = np.random.default_rng(0)
    images, noise, more = rng.normal(size=(3, 150, 30)).astype(np.float32)
    mirrored, turned = images + 0.3 * noise, images + 0.3 * more
    assert not have_upside(images, mirrored, turned)
    lit = np.zeros(30, dtype=np.float32)
    lit[0] = 1
    assert have_upside(images, mirrored + lit, turned + lit), "both are told for sure, as of digits: no reason to turn"
    assert have_upside(images, mirrored, turned + lit)


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return load_backbone(size=64)


def _drawn(folder: Path, with_sky: bool, count: int) -> list[Sample]:
    """Specks on grey, below a sky where there is to be an upside."""
    folder.mkdir()
    found = []
    for number in range(count):
        image = np.random.default_rng(number).integers(0, 256, (64, 64, 3), dtype=np.uint8) // 2
        if with_sky:
            image[:24] = (120, 170, 250)
        file = folder / f"{number}.png"
        Image.fromarray(image).save(file)
        found.append(Sample(content_id(file), file.name, file, "train"))
    return found


@pytest.mark.parametrize("with_sky", [True, False])
def test_images_without_an_upside_are_looked_at_upside_down_in_smaller_views(
    backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, with_sky: bool
) -> None:
    monkeypatch.setattr(features, "_SMALLEST_VIEW", 64)
    samples = _drawn(tmp_path / "images", with_sky, 110)
    views = ViewFeatures(backbone, tmp_path / "cache")
    views.compute(samples[:20])
    assert views.upright, "too few to tell"
    found = views.features(samples)
    assert views.upright == with_sky
    assert views.turned == [False, not with_sky]
    encoded = views.encode(lambda side: views.decode(samples[:5], side))
    assert np.allclose(encoded, found[:5], rtol=2e-3, atol=2e-3), "images that are in no file alike"
    width = found.shape[1] // 2
    other = views.looking(not with_sky).features(samples[:5])
    assert np.array_equal(other[:, :width], found[:5, :width]), "the first view is mirrored in any case"
    assert not np.allclose(other[:, width:], found[:5, width:], rtol=0.05, atol=0.05)
    upright = views.encode(lambda side: views.decode(samples[:5], side), mirror=False)
    changed = [views.decode(samples[:5], side) for side in views.sizes]
    changed = [i[:, ::-1, ::-1] if t else i[:, :, ::-1] for i, t in zip(changed, views.turned, strict=True)]
    by_side = dict(zip(views.sizes, changed, strict=True))
    both = (upright + views.encode(by_side.__getitem__, mirror=False)) / 2
    assert np.allclose(both, found[:5], rtol=2e-3, atol=2e-3)
    assert ViewFeatures(backbone, tmp_path / "cache").upright == with_sky, "found out once"

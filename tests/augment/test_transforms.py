"""A recipe becomes a function that is picklable, the same for the same seed, and does to pixels what it says."""

from __future__ import annotations

import pickle
import random
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd
import pytest

from augment.recipes import Recipe, Step, known_weaknesses, recipe_for
from augment.transforms import build_transform
from curation.errors import ConfigError
from curation.properties import measure_pixels


def scene(height: int = 120, width: int = 150, seed: int = 0) -> np.ndarray:
    """A sharp coloured picture of blocks with a little noise."""
    rng = np.random.default_rng(seed)
    blocks = np.kron(rng.integers(60, 200, (height // 10, width // 10, 3)), np.ones((10, 10, 1)))
    return (blocks + rng.normal(0, 2, blocks.shape)).clip(0, 255).astype(np.uint8)


def patched(image: np.ndarray, share: float) -> np.ndarray:
    """With the left ``share`` of it white."""
    changed = image.copy()
    changed[:, : round(share * image.shape[1])] = 255
    return changed


def properties_of(images: list[np.ndarray]) -> pd.DataFrame:
    return pd.DataFrame([measure_pixels(i) | {"width": i.shape[1], "height": i.shape[0]} for i in images])


def default_recipe(weakness: str) -> Recipe:
    return recipe_for(weakness, pd.DataFrame(), pd.DataFrame())


def one_step(transform: str, **parameters: object) -> Recipe:
    return Recipe("mine", "rare", (Step(transform, parameters),), "")


@pytest.mark.parametrize("weakness", known_weaknesses())
class TestEveryRecipe:
    def test_shape_and_type_stay_and_pixels_change(self, weakness: str) -> None:
        transform = build_transform(default_recipe(weakness))
        image = scene()
        before = image.copy()
        changed = transform(image, 7)
        assert changed.shape == image.shape
        assert changed.dtype == np.uint8
        assert (image == before).all(), "the image that was given must stay as it is"
        assert (changed != image).any()

    def test_seed_decides(self, weakness: str) -> None:
        transform = build_transform(default_recipe(weakness))
        again = pickle.loads(pickle.dumps(transform))
        image = scene()
        np.random.seed(1)
        random.seed(1)
        first = transform(image, 7)
        assert (again(image, 7) == first).all()
        assert any((transform(image, seed) != first).any() for seed in range(8, 12))

    def test_read_only_and_tiny_images_are_taken(self, weakness: str) -> None:
        transform = build_transform(default_recipe(weakness))
        image = scene()[:32, :32]
        image.setflags(write=False)
        assert transform(image, 2**40).shape == (32, 32, 3)


class TestWhatItDoes:
    @pytest.mark.parametrize(
        ("weakness", "field", "make"),
        [
            ("dark", "brightness", lambda i: (i * 0.4).astype(np.uint8)),
            ("low_contrast", "contrast", lambda i: (i * 0.4 + 80).astype(np.uint8)),
            ("bright", "brightness", lambda i: (255 * (i / 255) ** 0.4).astype(np.uint8)),
            (
                "noisy",
                "noise",
                lambda i: (
                    (i + np.random.default_rng(0).normal(0, 15, i.shape[:2])[:, :, None]).clip(0, 255).astype(np.uint8)
                ),
            ),
            ("glare", "highlights", lambda i: patched(i, 0.3)),
        ],
    )
    def test_copies_measure_like_the_slice(self, weakness: str, field: str, make: object) -> None:
        """The recipe fitted to a slice brings other images to the slice's own level."""
        rest = [scene(seed=s) for s in range(8)]
        inside = properties_of([make(i) for i in rest])  # type: ignore[operator]
        transform = build_transform(recipe_for(weakness, inside, properties_of(rest)))
        copies = properties_of([transform(i, s) for s, i in enumerate(rest)])
        gap = abs(inside[field].median() - properties_of(rest)[field].median())
        assert copies[field].median() == pytest.approx(inside[field].median(), abs=0.2 * gap)

    def test_blur_lowers_sharpness(self) -> None:
        image = scene()
        blurred = build_transform(default_recipe("blurred"))(image, 0)
        assert measure_pixels(blurred)["sharpness"] < measure_pixels(image)["sharpness"] - 0.1

    def test_glare_brings_highlights(self) -> None:
        glare = build_transform(default_recipe("glare"))
        assert max(measure_pixels(glare(scene(), s))["highlights"] for s in range(5)) > 0.002

    def test_glare_is_white_spots_that_fade(self) -> None:
        image = scene()
        spots = Step("Glare", {"share": [0.2, 0.2], "spots": [1, 1], "edge": [0.5, 0.5], "p": 1.0})
        changed = build_transform(Recipe("mine", "glare", (spots,), ""))(image, 3)
        white = (changed == 255).all(axis=2).mean()
        assert white == pytest.approx(0.2, abs=0.05)
        assert (changed >= image).all(), "glare adds light"
        assert 0.1 < ((changed != image).any(axis=2) & (changed != 255).any(axis=2)).mean() < 0.6

    def test_threads_at_once_give_what_each_gives_alone(self) -> None:
        transform = build_transform(default_recipe("rare"))
        image = scene()
        alone = [transform(image, seed) for seed in range(24)]
        with ThreadPoolExecutor(4) as pool:
            together = list(pool.map(lambda seed: transform(image, seed), range(24)))
        assert all((a == b).all() for a, b in zip(alone, together, strict=True))


class TestRefusing:
    @pytest.mark.parametrize(
        ("recipe", "message"),
        [
            (one_step("GausianBlur"), "no transform 'GausianBlur'; did you mean 'GaussianBlur'?"),
            (one_step("Glaer"), "no transform 'Glaer'; did you mean 'Glare'?"),
            (one_step("Compose"), "no transform 'Compose'"),
            (one_step("GaussianBlur", strength=3), "GaussianBlur has no parameter 'strength'; it has blur_limit"),
            (one_step("ImageCompression", quality_range=[50, 400]), "ImageCompression: quality_range"),
            (one_step("Glare", share=[0.4, 0.2]), "Glare: share must be two numbers from 0 to 1, the lower first"),
            (one_step("Glare", spots=3), "Glare: spots must be two whole numbers from 1 to 100"),
            (one_step("Glare", radius=3), "Glare has no parameter 'radius'; it has edge, p, share, spots"),
            (one_step("Resize", height=10, width=10), "changes an image's size or type"),
            (one_step("ToFloat", p=1.0), "changes an image's size or type"),
            (one_step("OverlayElements", p=1.0), "can't be applied to an image"),
            (one_step("RandomScale"), "changes an image's size or type"),
            (one_step("Resize", height=48, width=64), "changes an image's size or type"),
            (one_step("Normalize", p=0.4), "changes an image's size or type"),
            (one_step("Rotate", limit=45, crop_border=True, p=0.4), "changes an image's size or type"),
            (one_step("Mosaic"), "can't be applied to an image"),
            (one_step("RandomGamma", p=2), "RandomGamma: p"),
        ],
    )
    def test_wrong_step_is_named(self, recipe: Recipe, message: str) -> None:
        with pytest.raises(ConfigError) as refused:
            build_transform(recipe)
        assert message in str(refused.value)
        assert "'mine'" in str(refused.value)
        assert "\n" not in str(refused.value)

    def test_step_that_turns_an_image_on_its_side_is_taken(self) -> None:
        """Squares, of which copies are made, stay squares; what is shown to people may be of any shape."""
        transform = build_transform(one_step("Transpose", p=1.0))
        for image in (scene(100, 100), scene(100, 140)):
            assert (transform(image, 0) == image.transpose(1, 0, 2)).all()

    def test_square_that_changes_its_size_all_the_same_is_refused_by_name(self) -> None:
        larger = build_transform(one_step("PadIfNeeded", min_height=60, min_width=60, p=1.0))
        with pytest.raises(ConfigError, match="recipe 'mine' changes an image's size or type"):
            larger(scene(50, 50), 0)

"""A recipe is plain data, fitted to what was measured; a user's own is read from a file or refused by name."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pandas as pd
import pytest

from augment.recipes import Recipe, Step, from_dict, known_weaknesses, read_recipes, recipe_for
from curation.errors import ConfigError


def looking(count: int = 50, **values: float) -> pd.DataFrame:
    """Properties of images that all look alike."""
    usual = {"brightness": 0.6, "contrast": 0.2, "sharpness": 0.7, "noise": 0.01, "saturation": 0.3, "width": 300.0}
    return pd.DataFrame([usual | values] * count)


def parameter(weakness: str, name: str, inside: pd.DataFrame, rest: pd.DataFrame) -> object:
    return recipe_for(weakness, inside, rest).steps[0].parameters[name]


class TestFitting:
    def test_every_weakness_that_a_slice_can_have_has_a_recipe(self) -> None:
        assert set(known_weaknesses()) >= {
            "dark", "bright", "blurred", "low_resolution", "noisy", "low_contrast", "compressed", "glare", "busy",
            "small", "tilted", "occluded", "colour_cast", "rare",
        }  # fmt: skip
        for weakness in known_weaknesses():
            recipe = recipe_for(weakness, looking(), looking())
            assert recipe.weakness == weakness
            assert recipe.steps
            assert recipe.words.endswith(".")

    def test_dark_runs_from_the_darkest_tenth_to_the_brightest_of_the_slice(self) -> None:
        inside = looking(3).assign(brightness=[0.12, 0.18, 0.24])
        low, high = parameter("dark", "brightness", inside, looking())  # type: ignore[misc]
        assert low == pytest.approx((0.12 + 0.2 * 0.06) / 0.6, abs=1e-3)  # 10th percentile of three values
        assert high == pytest.approx((0.24 - 0.2 * 0.06) / 0.6, abs=1e-3)

    def test_low_contrast_halves_contrast_where_the_slice_has_half(self) -> None:
        assert parameter("low_contrast", "contrast", looking(contrast=0.1), looking()) == [0.5, 0.5]

    def test_bright_gamma_takes_the_usual_image_to_the_slice(self) -> None:
        """0.36 ** 0.5 = 0.6."""
        assert parameter("bright", "gamma_limit", looking(brightness=0.6), looking(brightness=0.36)) == [50, 50]

    def test_noise_adds_what_is_missing_in_squares(self) -> None:
        """0.05 squared less 0.03 squared is 0.04 squared."""
        weak, strong = parameter("noisy", "std_range", looking(noise=0.05), looking(noise=0.03))  # type: ignore[misc]
        assert (weak, strong) == pytest.approx((0.04, 0.04))

    def test_a_more_blurred_slice_gets_more_blur(self) -> None:
        little = parameter("blurred", "sigma_limit", looking(sharpness=0.5), looking())
        much = parameter("blurred", "sigma_limit", looking(sharpness=0.25), looking())
        assert little[1] < much[0]  # type: ignore[index]

    def test_a_coarser_slice_is_shrunk_further_as_far_as_images_were_seen_to_lose_sharpness(self) -> None:
        """Half of the sharpness is left at a quarter of the side, a quarter of it at an eighth."""
        softness = ((1.0, 0.8), (4.0, 0.4), (8.0, 0.2))
        inside = looking(11).assign(sharpness=[0.2, 0.2, *[0.3] * 7, 0.4, 0.4])
        recipe = recipe_for("low_resolution", inside, looking(sharpness=0.8), softness)
        assert [s.transform for s in recipe.steps] == ["Downscale"]
        assert recipe.steps[0].parameters["scale_range"] == [1 / 8, 1 / 4]
        assert recipe.words == "Copies shrunk to 12% to 25% of their sides and enlarged again."

    def test_glare_covers_what_is_white_in_the_slice_and_nowhere_else(self) -> None:
        """An image on white ground among the slice's makes its highest percentile no measure of glare."""
        inside = looking(9, highlights=0.2).assign(highlights=[0.16, 0.18, 0.2, 0.2, 0.2, 0.2, 0.2, 0.2, 0.7])
        assert parameter("glare", "share", inside, looking(highlights=0.02)) == pytest.approx([0.156, 0.204])
        usual = parameter("glare", "share", looking(highlights=0.0), looking(highlights=0.0))
        assert usual == [0.05, 0.25]
        assert parameter("glare", "share", looking(highlights=0.0), looking(highlights=0.3)) == [0.05, 0.25]

    def test_tilted_turns_as_far_as_the_slice_is_and_no_further_than_can_be_told(self) -> None:
        level = looking(tilt=0.2)
        turned = recipe_for("tilted", looking(tilt=22.0), level)
        assert [s.transform for s in turned.steps] == ["Rotate"]
        assert turned.steps[0].parameters["limit"] == [-22, 22]
        assert turned.words == "Copies turned by up to 22 degrees to either side."
        assert parameter("tilted", "limit", looking(tilt=45.4), level) == [-45, 45]
        assert recipe_for("tilted", looking(tilt=0.3), level) == recipe_for("tilted", level[:0], level)

    def test_small_scales_by_the_ratio_of_widths(self) -> None:
        assert parameter("small", "scale_range", looking(width=90.0), looking()) == [0.3, 0.3]

    @pytest.mark.parametrize(
        "weakness", ["dark", "bright", "low_contrast", "blurred", "low_resolution", "noisy", "small"]
    )
    @pytest.mark.parametrize("properties", [pd.DataFrame(), looking(0), looking(brightness=0.0, contrast=0.0)])
    def test_nothing_measured_gives_a_mild_default(self, weakness: str, properties: pd.DataFrame) -> None:
        recipe = recipe_for(weakness, properties, properties)
        assert "nan" not in json.dumps(recipe.to_dict()).lower()

    def test_slice_that_differs_the_other_way_never_gets_the_opposite(self) -> None:
        low, high = parameter("dark", "brightness", looking(brightness=0.9), looking(brightness=0.5))  # type: ignore[misc]
        assert low < high < 1
        strong, weak = parameter("bright", "gamma_limit", looking(brightness=0.2), looking())  # type: ignore[misc]
        assert strong <= weak < 100

    def test_copies_of_grey_images_stay_grey(self) -> None:
        grey = looking(saturation=0.0)
        assert recipe_for("occluded", grey, grey).steps[-1].transform == "ToGray"
        assert recipe_for("occluded", looking(), looking()).steps[-1].transform == "CoarseDropout"

    def test_unknown_weakness_is_named_with_those_known(self) -> None:
        with pytest.raises(ConfigError, match="no recipe against 'haunted'; known are blurred, bright"):
            recipe_for("haunted", looking(), looking())


class TestPlainData:
    def test_recipe_survives_json_and_pickle(self) -> None:
        for weakness in known_weaknesses():
            recipe = recipe_for(weakness, looking(), looking())
            assert from_dict(json.loads(json.dumps(recipe.to_dict()))) == recipe
            assert pickle.loads(pickle.dumps(recipe)) == recipe

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"name": ""}, "'name' must be a text"),
            ({"weakness": 3}, "'weakness' must be a text, got 3"),
            ({"steps": []}, "recipe 'fog' has no steps"),
            ({"steps": [{"p": 1}]}, "step 1 of recipe 'fog' names no transform"),
            ({"steps": [{"transform": "Blur", "strength": 1}]}, "unknown key 'strength'"),
            ({"steps": [{"transform": "Blur", "parameters": [3]}]}, "'parameters' must be a table"),
            ({"colour": "red"}, "unknown key 'colour'"),
        ],
    )
    def test_wrong_recipe_is_refused_by_name(self, change: dict[str, object], message: str) -> None:
        values = {"name": "fog", "weakness": "low_contrast", "steps": [{"transform": "RandomFog"}]} | change
        with pytest.raises(ConfigError, match=message):
            from_dict(values)


OWN = "[[recipe]]\nname='a'\nweakness='{}'\nsteps=[{{transform='Blur'}}]\n"


class TestFile:
    def write(self, folder: Path, text: str) -> Path:
        (folder / "recipes.toml").write_text(text)
        return folder / "recipes.toml"

    def test_recipes_are_read_in_order(self, tmp_path: Path) -> None:
        file = self.write(
            tmp_path,
            """
            [[recipe]]
            name = "fog"
            weakness = "low_contrast"
            words = "Copies in fog."
            steps = [{transform = "RandomFog", parameters = {alpha_coef = 0.1, p = 1.0}}]

            [[recipe]]
            name = "turn"
            weakness = "tilted"
            steps = [{transform = "Rotate"}]
            """,
        )
        fog, turn = read_recipes(file)
        step = Step("RandomFog", {"alpha_coef": 0.1, "p": 1.0})
        assert fog == Recipe("fog", "low_contrast", (step,), "Copies in fog.")
        assert turn.steps == (Step("Rotate", {}),)

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("[[recipe]", "is not valid TOML"),
            ("", r"holds no \[\[recipe\]\]"),
            ("[recipe]\nname = 'a'", r"holds no \[\[recipe\]\]"),
            ("title = 'x'", "unknown key 'title'"),
            ("recipe = [5]", "a recipe must be a table with name, weakness, words, steps, got 5"),
            ("recipe = ['a']", "a recipe must be a table with name, weakness, words, steps, got 'a'"),
            ("[[recipe]]\nname = 'a'", "recipes.toml: a recipe's 'weakness'"),
            (2 * "[[recipe]]\nname='a'\nweakness='dark'\nsteps=[{transform='Blur'}]\n", "two recipes are named 'a'"),
            (OWN.format("darkness"), "recipe 'a' is against 'darkness', which is none; did you mean 'dark'?"),
            (OWN.format("x"), "recipe 'a' is against 'x', which is none; known are blurred, bright,"),
        ],
    )
    def test_wrong_file_is_refused_by_name(self, tmp_path: Path, text: str, message: str) -> None:
        with pytest.raises(ConfigError, match=message) as refused:
            read_recipes(self.write(tmp_path, text))
        assert str(tmp_path / "recipes.toml") in str(refused.value)

    def test_folder_in_place_of_a_file_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match=r"can't be read \(Is a directory\); name the file of recipes"):
            read_recipes(tmp_path)

    def test_missing_file_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="does not exist"):
            read_recipes(tmp_path / "none.toml")

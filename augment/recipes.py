"""Augmentation recipes as our own plain data: which transforms produce which condition, and how strongly.

Nothing here knows the library that carries them out (``transforms.py`` does); a recipe is kept as readable data in the
iteration's record, and users can bring their own in a TOML file.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from curation.errors import ConfigError

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Step:
    """One transform with its parameters; lists stand for ranges."""

    transform: str
    parameters: Mapping[str, Any]

    def __post_init__(self) -> None:
        object.__setattr__(self, "parameters", MappingProxyType(dict(self.parameters)))

    def __reduce__(self) -> tuple[Any, ...]:
        return (Step, (self.transform, dict(self.parameters)))


@dataclass(frozen=True)
class Recipe:
    """Named steps against a weakness (``dark``, ``blurred``, ``rare``, ...); ``words`` say what they do."""

    name: str
    weakness: str
    steps: tuple[Step, ...]
    words: str

    def to_dict(self) -> dict[str, Any]:
        """The recipe as plain values for JSON or TOML."""
        steps = [{"transform": s.transform, "parameters": dict(s.parameters)} for s in self.steps]
        return {"name": self.name, "weakness": self.weakness, "words": self.words, "steps": steps}


def from_dict(values: Mapping[str, Any], source: str = "recipe") -> Recipe:
    """The inverse of ``Recipe.to_dict``; raises ConfigError naming what is missing or unknown."""
    unknown = set(values) - {"name", "weakness", "words", "steps"}
    if unknown:
        raise ConfigError(f"{source}: unknown key '{sorted(unknown)[0]}'; a recipe has name, weakness, words, steps")
    for key in ("name", "weakness", "steps"):
        if not values.get(key):
            raise ConfigError(f"{source}: the recipe's '{key}' is missing; give it")
    steps = []
    for number, step in enumerate(values["steps"], start=1):
        if not isinstance(step, Mapping) or "transform" not in step:
            raise ConfigError(
                f"{source}: step {number} of '{values['name']}' names no transform; give transform = \"...\""
            )
        steps.append(Step(str(step["transform"]), step.get("parameters", {})))
    return Recipe(str(values["name"]), str(values["weakness"]), tuple(steps), str(values.get("words", "")))


def read_recipes(file: Path) -> list[Recipe]:
    """Recipes of a TOML file with one ``[[recipe]]`` table each; raises ConfigError naming the file."""
    try:
        values = tomllib.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{file} does not exist; name the file of recipes") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file} is not valid TOML: {error}") from None
    found = values.get("recipe", [])
    if not isinstance(found, list) or not found:
        raise ConfigError(f"{file} holds no [[recipe]]; write one table for each recipe")
    return [from_dict(recipe, str(file)) for recipe in found]


def recipe_for(weakness: str, inside: pd.DataFrame, outside: pd.DataFrame) -> Recipe:
    """The recipe against a weakness, as strong as the slice (``inside``) differs from the other images (``outside``).

    Both are tables of measured properties. Raises ConfigError for a weakness without a recipe.
    """
    makers = {
        "dark": lambda: _light("dark", inside, outside),
        "bright": lambda: _light("bright", inside, outside),
        "low_contrast": lambda: _contrast(inside, outside),
        "blurred": lambda: _one("blurred", "GaussianBlur", {"sigma_limit": [0.5, 2.0], "blur_limit": 0, "p": 1.0}),
        "noisy": lambda: _one("noisy", "GaussNoise", {"std_range": [0.03, 0.12], "p": 1.0}),
        "compressed": lambda: _one("compressed", "ImageCompression", {"quality_range": [25, 60], "p": 1.0}),
        "glare": lambda: _one("glare", "RandomSunFlare", {"src_radius": 60, "p": 1.0}),
        "busy": lambda: _one("busy", "GridDistortion", {"distort_limit": [-0.15, 0.15], "p": 1.0}),
        "small": lambda: _one("small", "Downscale", {"scale_range": [0.3, 0.7], "p": 1.0}),
        "tilted": lambda: _one("tilted", "Perspective", {"scale": [0.03, 0.1], "p": 1.0}),
        "occluded": lambda: _one("occluded", "CoarseDropout", {"num_holes_range": [1, 3], "p": 1.0}),
        "colour_cast": lambda: _one(
            "colour_cast", "HueSaturationValue", {"hue_shift_limit": [-12, 12], "sat_shift_limit": [-20, 20], "p": 1.0}
        ),
        "rare": _rare,
    }
    if weakness not in makers:
        raise ConfigError(f"there is no recipe against '{weakness}'; known are {', '.join(sorted(makers))}")
    return makers[weakness]()


_WORDS = {
    "blurred": "soft focus",
    "noisy": "sensor noise",
    "compressed": "strong JPEG compression",
    "glare": "glare and reflections",
    "busy": "distorted surroundings",
    "small": "low resolution",
    "tilted": "seen from another angle",
    "occluded": "partly covered",
    "colour_cast": "a cast of colour",
}


def _one(weakness: str, transform: str, parameters: Mapping[str, Any]) -> Recipe:
    return Recipe(weakness, weakness, (Step(transform, parameters),), f"Copies with {_WORDS[weakness]}.")


def _light(weakness: str, inside: pd.DataFrame, outside: pd.DataFrame) -> Recipe:
    """Brightness moved by what lies between the medians, give or take a half."""
    shift = _difference("brightness", inside, outside, -0.2 if weakness == "dark" else 0.2)
    low, high = sorted((round(1.5 * shift, 3), round(0.5 * shift, 3)))
    step = Step("RandomBrightnessContrast", {"brightness_limit": [low, high], "contrast_limit": [-0.1, 0.1], "p": 1.0})
    words = f"Copies made {'darker' if shift < 0 else 'brighter'} by {abs(low + high) / 2:.0%} of full scale."
    return Recipe(weakness, weakness, (step,), words)


def _contrast(inside: pd.DataFrame, outside: pd.DataFrame) -> Recipe:
    there, elsewhere = _median("contrast", inside), _median("contrast", outside)
    change = max(-0.8, min(-0.1, there / elsewhere - 1)) if elsewhere > 0 else -0.4
    step = Step(
        "RandomBrightnessContrast",
        {"brightness_limit": [0.0, 0.0], "contrast_limit": [round(1.2 * change, 3), round(0.6 * change, 3)], "p": 1.0},
    )
    return Recipe("low_contrast", "low_contrast", (step,), f"Copies with about {-change:.0%} less contrast.")


def _rare() -> Recipe:
    steps = (
        Step("HorizontalFlip", {"p": 0.5}),
        Step("Affine", {"rotate": [-7, 7], "scale": [0.92, 1.08], "translate_percent": [-0.03, 0.03], "p": 1.0}),
        Step("RandomBrightnessContrast", {"brightness_limit": [-0.1, 0.1], "contrast_limit": [-0.15, 0.15], "p": 0.8}),
    )
    return Recipe("rare", "rare", steps, "More copies of these images, slightly turned, moved and relit.")


def _median(column: str, table: pd.DataFrame) -> float:
    return float(table[column].median()) if column in table and len(table) else 0.0


def _difference(column: str, inside: pd.DataFrame, outside: pd.DataFrame, least: float) -> float:
    """Median inside minus outside, at least ``least`` away from nothing in its direction, at most 0.7."""
    shift = _median(column, inside) - _median(column, outside)
    if shift * least <= 0 or abs(shift) < abs(least) / 4:
        return least / 2
    return max(-0.7, min(0.7, shift))


def known_weaknesses() -> Sequence[str]:
    """Every weakness that has a recipe."""
    return ("bright", "dark", "low_contrast", "rare", *sorted(_WORDS))

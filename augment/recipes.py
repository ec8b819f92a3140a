"""Augmentation recipes as our own plain data: which transforms produce which condition, and how strongly.

Nothing here knows the library that carries them out (``transforms.py`` does); a recipe is kept as readable data in the
iteration's record, and users can bring their own in a TOML file.
"""

from __future__ import annotations

import difflib
import math
import tomllib
from collections.abc import Callable, Mapping, Sequence
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
    """The inverse of ``Recipe.to_dict``; raises ConfigError naming what is missing, unknown or of the wrong type."""
    if not isinstance(values, Mapping):
        raise ConfigError(f"{source}: a recipe must be a table with name, weakness, words, steps, got {values!r}")
    unknown = sorted(set(values) - {"name", "weakness", "words", "steps"})
    if unknown:
        raise ConfigError(f"{source}: unknown key '{unknown[0]}'; a recipe has name, weakness, words, steps")
    for key in ("name", "weakness"):
        if not isinstance(values.get(key), str) or not values[key]:
            raise ConfigError(f"{source}: a recipe's '{key}' must be a text, got {values.get(key)!r}")
    name, steps = values["name"], values.get("steps")
    if not isinstance(steps, list) or not steps:
        raise ConfigError(f"{source}: recipe '{name}' has no steps; give a list of {{transform, parameters}}")
    made = [_step_from(step, f"{source}: step {number} of recipe '{name}'") for number, step in enumerate(steps, 1)]
    return Recipe(name, values["weakness"], tuple(made), str(values.get("words", "")))


def _step_from(step: object, where: str) -> Step:
    if not isinstance(step, Mapping) or not isinstance(step.get("transform"), str):
        raise ConfigError(f'{where} names no transform; give transform = "..."')
    unknown = sorted(set(step) - {"transform", "parameters"})
    if unknown:
        raise ConfigError(f"{where}: unknown key '{unknown[0]}'; a step has transform and parameters")
    parameters = step.get("parameters", {})
    if not isinstance(parameters, Mapping):
        raise ConfigError(f"{where}: 'parameters' must be a table, got {parameters!r}")
    return Step(step["transform"], parameters)


def read_recipes(file: Path) -> list[Recipe]:
    """Recipes of a TOML file with one ``[[recipe]]`` table each; raises ConfigError naming the file.

    Also for one against a weakness that no slice has.
    """
    try:
        values = tomllib.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{file} does not exist; name the file of recipes") from None
    except OSError as error:
        raise ConfigError(f"{file} can't be read ({error.strerror}); name the file of recipes") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file} is not valid TOML: {error}") from None
    unknown = sorted(set(values) - {"recipe"})
    if unknown:
        raise ConfigError(f"{file}: unknown key '{unknown[0]}'; write each recipe as a [[recipe]] table")
    found = values.get("recipe")
    if not isinstance(found, list) or not found:
        raise ConfigError(f"{file} holds no [[recipe]]; write one table for each recipe")
    recipes = [from_dict(recipe, str(file)) for recipe in found]
    for name in (r.name for r in recipes):
        if [r.name for r in recipes].count(name) > 1:
            raise ConfigError(f"{file}: two recipes are named '{name}'; give each its own name")
    for recipe in recipes:
        if recipe.weakness not in _MAKERS:
            near = difflib.get_close_matches(recipe.weakness, _MAKERS, n=1)
            offer = f"did you mean '{near[0]}'?" if near else f"known are {', '.join(known_weaknesses())}"
            raise ConfigError(f"{file}: recipe '{recipe.name}' is against '{recipe.weakness}', which is none; {offer}")
    return recipes


# --- recipes by weakness

#: How far images are softened, from not at all on, and how sharp they still are.
Softness = Sequence[tuple[float, float]]
#: Median sharpness of 21 photographs and cell images at 256 pixels a side, for each weakness that makes them softer:
#: after a Gaussian blur of so many pixels, and shrunk to one in so many pixels of a side and enlarged again.
USUAL_SOFTNESS: Mapping[str, Softness] = MappingProxyType(
    {
        "blurred": ((0.0, 0.70), (1.0, 0.57), (2.0, 0.38), (3.0, 0.29), (5.0, 0.22)),
        "low_resolution": ((1.0, 0.70), (1.5, 0.61), (2.0, 0.56), (3.0, 0.51), (4.0, 0.43), (6.0, 0.37), (8.0, 0.32)),
    }
)
#: Below this median saturation in and around the slice the set is grey, and copies must be grey too.
_GREY = 0.01
#: Least and greatest part of an image that a recipe covers with glare.
_LEAST_WHITE, _MOST_WHITE = 0.01, 0.6
#: Edges turned by so many degrees at most stand for no tilt.
_LEVEL = 5.0


def recipe_for(
    weakness: str,
    properties_slice: pd.DataFrame,
    properties_rest: pd.DataFrame,
    softness: Softness = (),
) -> Recipe:
    """The recipe against a weakness, made to turn images of the rest into ones like those of the slice.

    Both are tables of measured properties (see ``measure_properties``). The strength runs from what makes the usual
    image of the rest like the 10th percentile of the slice, to what makes it like the 90th (glare: as far above the
    median as that lies below); where nothing was measured, or the slice differs the other way, it is a mild default.
    Where all images are grey, so are the copies. ``softness`` says how sharp the usual image of the rest is, in the
    measure of the tables, once it is as much softer as ``USUAL_SOFTNESS`` has it for the weakness, in pixels of what
    is copied; by default that one's. Raises ConfigError for a weakness without a recipe.
    """
    if weakness not in _MAKERS:
        raise ConfigError(f"there is no recipe against '{weakness}'; known are {', '.join(sorted(_MAKERS))}")
    steps, words = _MAKERS[weakness](_Tables(properties_slice, properties_rest, tuple(softness)))
    grey = max(_middle("saturation", t, 1.0) for t in (properties_slice, properties_rest)) < _GREY
    if grey and weakness in _COLOURING:
        steps = (*steps, Step("ToGray", {"p": 1.0}))
    return Recipe(weakness, weakness, steps, words)


def known_weaknesses() -> tuple[str, ...]:
    """Every weakness that has a recipe.

    >>> "dark" in known_weaknesses() and "rare" in known_weaknesses()
    True
    """
    return tuple(sorted(_MAKERS))


@dataclass(frozen=True)
class _Tables:
    """Properties of a slice and of the rest; how sharp the rest is once it is softened, where that was measured."""

    inside: pd.DataFrame
    rest: pd.DataFrame
    softness: Softness

    def usual(self, column: str, default: float) -> float:
        """The median of the rest."""
        return _middle(column, self.rest, default)

    def spread(self, column: str, default: tuple[float, float]) -> tuple[float, float]:
        """The 10th and 90th percentile of the slice."""
        if column not in self.inside or not self.inside[column].notna().any():
            return default
        low, high = self.inside[column].quantile([0.1, 0.9])
        return float(low), float(high)

    def ratios(self, column: str, bounds: tuple[float, float], default: tuple[float, float]) -> list[float]:
        """Slice over usual, lowest and highest, within ``bounds``; ``default`` where it lies wholly outside them."""
        usual = self.usual(column, 0.0)
        if usual <= 0:
            return list(default)
        low, high = (share / usual for share in self.spread(column, (usual, usual)))
        if high <= bounds[0] or low >= bounds[1]:
            return list(default)
        return [round(max(low, bounds[0]), 3), round(min(high, bounds[1]), 3)]


def _middle(column: str, table: pd.DataFrame, default: float) -> float:
    if column not in table or not table[column].notna().any():
        return default
    return float(table[column].median())


Made = tuple[tuple[Step, ...], str]


def _jitter(*, brightness: Sequence[float] = (1.0, 1.0), contrast: Sequence[float] = (1.0, 1.0)) -> Step:
    """Brightness times a factor (as less or more exposure does), contrast times a factor around the image's mean."""
    still = {"saturation": [1.0, 1.0], "hue": [0.0, 0.0]}
    return Step("ColorJitter", {"brightness": list(brightness), "contrast": list(contrast), **still, "p": 1.0})


def _dark(tables: _Tables) -> Made:
    low, high = tables.ratios("brightness", (0.05, 0.95), (0.4, 0.8))
    return (_jitter(brightness=[low, high]),), f"Copies exposed {1 - high:.0%} to {1 - low:.0%} less."


def _bright(tables: _Tables) -> Made:
    """By gamma, which lifts an image towards white and clips nothing that tells classes apart."""
    usual = min(max(tables.usual("brightness", 0.5), 0.05), 0.9)
    low, high = (min(max(level, 0.05), 0.95) for level in tables.spread("brightness", (1.2 * usual, 1.6 * usual)))
    if high <= usual:
        low, high = 1.05 * usual, min(1.3 * usual, 0.95)
    strong, weak = (round(100 * min(max(math.log(level) / math.log(usual), 0.2), 0.95)) for level in (high, low))
    step = Step("RandomGamma", {"gamma_limit": [strong, weak], "p": 1.0})
    return (step,), f"Copies made brighter, an average one to between {max(low, usual):.0%} and {high:.0%} of white."


def _low_contrast(tables: _Tables) -> Made:
    low, high = tables.ratios("contrast", (0.1, 0.95), (0.4, 0.8))
    return (_jitter(contrast=[low, high]),), f"Copies with {1 - high:.0%} to {1 - low:.0%} less contrast."


def _blurred(tables: _Tables) -> Made:
    weak, strong = _softer(tables, "blurred")
    weak, strong = round(max(weak, 0.5), 2), round(max(strong, 1.0), 2)
    return (softening("blurred", weak, strong),), f"Copies out of focus by {weak:g} to {strong:g} pixels."


def _low_resolution(tables: _Tables) -> Made:
    weak, strong = _softer(tables, "low_resolution")
    weak, strong = round(max(weak, 1.25), 2), round(max(strong, 2.0), 2)
    step = softening("low_resolution", weak, strong)
    return (step,), f"Copies shrunk to {1 / strong:.0%} to {1 / weak:.0%} of their sides and enlarged again."


def _softer(tables: _Tables, weakness: str) -> tuple[float, float]:
    """By how much, least and most, images are to be softened so that they are as the slice is."""
    usual = tables.usual("sharpness", 0.7)
    low, high = tables.spread("sharpness", (0.3 * usual / 0.7, 0.57 * usual / 0.7))
    softness = tables.softness or USUAL_SOFTNESS[weakness]
    weak, strong = sorted(_softness_for(level / usual, softness) for level in (high, low))
    return weak, strong


def softening(weakness: str, least: float, most: float) -> Step:
    """What makes images softer by between so much; see ``USUAL_SOFTNESS`` for the weaknesses and what is meant."""
    if weakness == "blurred":
        return Step("GaussianBlur", {"sigma_limit": [least, most], "blur_limit": 0, "p": 1.0})
    return _shrunk(round(1 / most, 4), round(1 / least, 4))


def _softness_for(share: float, softness: Softness = USUAL_SOFTNESS["blurred"]) -> float:
    """How much softer images are that have this share of their sharpness.

    >>> _softness_for(1.0), _softness_for(0.57 / 0.7), _softness_for(0.01)
    (0.0, 1.0, 5.0)
    """
    import numpy as np

    much, sharpness = zip(*reversed(softness), strict=True)
    return round(float(np.interp(share, np.array(sharpness) / max(sharpness[-1], 1e-6), much)), 6)


def _noisy(tables: _Tables) -> Made:
    usual = tables.usual("noise", 0.0)
    low, high = tables.spread("noise", (0.03, 0.1))
    weak, strong = (round(min(max(level**2 - usual**2, 0.0) ** 0.5, 0.3), 4) for level in (low, high))
    weak, strong = max(weak, 0.005), max(strong, 0.01)
    step = Step("GaussNoise", {"std_range": [weak, strong], "per_channel": False, "p": 1.0})
    return (step,), f"Copies with noise of {weak:.1%} to {strong:.1%} of full scale."


def _small(tables: _Tables) -> Made:
    low, high = tables.ratios("width", (0.1, 0.9), (0.3, 0.7))
    return (_shrunk(low, high),), f"Copies with {low:.0%} to {high:.0%} of the resolution."


def _shrunk(least: float, most: float) -> Step:
    """Shrunk to between these shares of each side, and enlarged again."""
    pair = {"downscale": _AREA, "upscale": _LINEAR}
    return Step("Downscale", {"scale_range": [least, most], "interpolation_pair": pair, "p": 1.0})


def _tilted(tables: _Tables) -> Made:
    """Turned to either side, as far as the slice is; an angle of another kind can't be measured."""
    _, most = tables.spread("tilt", (0.0, 0.0))
    if most <= max(tables.usual("tilt", 0.0), _LEVEL):
        leant = Step("Perspective", {"scale": [0.03, 0.1], "border_mode": _REFLECT, "p": 1.0})
        return (leant, _turned(15)), "Copies seen from another angle."
    limit = min(round(most), 45)
    return (_turned(limit),), f"Copies turned by up to {limit} degrees to either side."


def _turned(limit: int) -> Step:
    return Step("Rotate", {"limit": [-limit, limit], "border_mode": _REFLECT, "p": 1.0})


def _glare(tables: _Tables) -> Made:
    """Over as much of an image as is white in the slice and not elsewhere; for a lens's flares write an own recipe.

    From the 10th percentile of the slice to as far above its median, since pictures on white ground measure as glare.
    """
    usual = tables.usual("highlights", 0.0)
    low, _ = tables.spread("highlights", (usual + 0.05, usual))
    high = 2 * _middle("highlights", tables.inside, usual + 0.15) - low
    if high <= usual:
        low, high = usual + 0.05, usual + 0.25
    low, high = (round(min(max(share - usual, _LEAST_WHITE), _MOST_WHITE), 3) for share in (low, high))
    step = Step("Glare", {"share": [low, high], "spots": [1, 3], "edge": [0.3, 1.2], "p": 1.0})
    return (step,), f"Copies with white spots of soft edge over {low:.0%} to {high:.0%} of the image."


def _rare(tables: _Tables) -> Made:
    """Left unmirrored: that changes digits, texts, and what left and right mean."""
    moved = {"rotate": [-7, 7], "scale": [0.92, 1.08], "translate_percent": [-0.03, 0.03], "border_mode": _REFLECT}
    steps = (Step("Affine", {**moved, "p": 1.0}), _jitter(brightness=(0.9, 1.1), contrast=(0.85, 1.15)))
    return steps, "More copies of these images, slightly turned, moved and relit."


def _fixed(words: str, *steps: Step) -> Callable[[_Tables], Made]:
    return lambda tables: (steps, words)


#: Numbers of OpenCV's, by which the library that carries recipes out is told how to interpolate and fill borders.
_LINEAR, _AREA, _REFLECT = 1, 3, 4

_CLUTTER = {"num_holes_range": [6, 14], "hole_height_range": [0.02, 0.08], "hole_width_range": [0.02, 0.08]}
_COVER = {"num_holes_range": [1, 2], "hole_height_range": [0.15, 0.35], "hole_width_range": [0.15, 0.35]}
_TINT = {"r_shift_limit": [-25, 25], "g_shift_limit": [-25, 25], "b_shift_limit": [-25, 25]}

_MAKERS: dict[str, Callable[[_Tables], Made]] = {
    "dark": _dark,
    "bright": _bright,
    "low_contrast": _low_contrast,
    "blurred": _blurred,
    "low_resolution": _low_resolution,
    "noisy": _noisy,
    "small": _small,
    "rare": _rare,
    "compressed": _fixed(
        "Copies with strong JPEG compression.", Step("ImageCompression", {"quality_range": [15, 50], "p": 1.0})
    ),
    "glare": _glare,
    "busy": _fixed(
        "Copies strewn with small patches.", Step("CoarseDropout", {**_CLUTTER, "fill": "random_uniform", "p": 1.0})
    ),
    "tilted": _tilted,
    "occluded": _fixed(
        "Copies that are partly covered.", Step("CoarseDropout", {**_COVER, "fill": "random_uniform", "p": 1.0})
    ),
    "colour_cast": _fixed("Copies with a cast of colour.", Step("RGBShift", {**_TINT, "p": 1.0})),
}
#: Weaknesses whose transforms bring colour into grey images.
_COLOURING = ("busy", "occluded")

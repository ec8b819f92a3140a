"""The one door to albumentations: a recipe becomes a picklable function on images.

albumentations is no longer maintained; it is pinned, and nothing but this file knows it.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from augment.glare import Glare
from augment.recipes import Recipe, Step
from curation.errors import ConfigError

Pixels = npt.NDArray[np.uint8]

#: A recipe is tried out on a square of so many pixels a side, which nobody asks for, with so many seeds.
_SIDE, _TRIES = 61, 3


@dataclass(frozen=True)
class Transform:
    """``transform(image, seed)``: an (H, W, 3) uint8 image changed by the recipe, the same for the same seed.

    Plain data: it can be pickled, and called from several threads and processes at once. Raises ConfigError where a
    step can't be applied to an image, or changes its type or the size of a square, of which copies are made.
    """

    recipe: Recipe

    def __call__(self, image: Pixels, seed: int) -> Pixels:
        # Made anew each time (a millisecond): a pipeline keeps the state of its random numbers, so threads can't share.
        name, pipeline = self.recipe.name, _compose(self.recipe)
        pipeline.set_random_seed(seed % 2**32)
        try:
            changed: Pixels = pipeline(image=np.array(image, order="C"))["image"]
        except Exception as error:  # what a transform raises on an image that it can't take is anything at all
            raise ConfigError(f"recipe '{name}' can't be applied to an image: {_first_line(error)}") from error
        if not isinstance(changed, np.ndarray) or changed.dtype != image.dtype or _resized(changed, image):
            raise ConfigError(f"recipe '{name}' changes an image's size or type; leave out the step that does")
        return changed


def _resized(changed: Pixels, image: Pixels) -> bool:
    """Whether a square is no longer what it was; others, which are only shown, may be turned on their side."""
    height, width, _ = image.shape
    return changed.shape != image.shape and (height == width or changed.ndim != image.ndim)


def build_transform(recipe: Recipe) -> Transform:
    """The recipe as a function on images.

    Raises ConfigError for a transform, parameter or value that albumentations does not know, and for steps that need
    more than an image or that change its size or type.
    """
    transform = Transform(recipe)
    _try_out(transform)
    return transform


def _try_out(transform: Transform) -> None:
    """Carry every step out on a square of odd size, whatever the chance that it is given."""
    _compose(transform.recipe)
    steps = tuple(Step(step.transform, {**step.parameters, "p": 1.0}) for step in transform.recipe.steps)
    always = Transform(replace(transform.recipe, steps=steps))
    shades = np.linspace(0, 255, _SIDE * _SIDE * 3).reshape(_SIDE, _SIDE, 3).astype(np.uint8)
    for seed in range(_TRIES):
        always(shades, seed)


def _compose(recipe: Recipe) -> Any:
    library = _library()
    return library.Compose([_made(library, step, f"recipe '{recipe.name}'") for step in recipe.steps])


@lru_cache(maxsize=1)
def _library() -> Any:
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # its check for a newer version would ask the network
    import albumentations  # takes a second; only recipes that are carried out pay for it

    return albumentations


@lru_cache(maxsize=1)
def _own() -> dict[str, Any]:
    """Transforms of ours by name, which albumentations' pipelines carry out as their own.

    ``Glare``, since a lens's flare is of another kind than light that a surface throws back (docs/log.md).
    """

    class OwnGlare(_library().ImageOnlyTransform):  # type: ignore[misc]  # untyped
        def __init__(self, share: Any = Glare.share, spots: Any = Glare.spots, edge: Any = Glare.edge, p: float = 0.5):
            super().__init__(p=p)
            self.add = Glare(share, spots, edge)

        def apply(self, img: Pixels, **params: Any) -> Pixels:
            return self.add(img, self.random_generator)

    return {"Glare": OwnGlare}


def _made(library: Any, step: Step, where: str) -> Any:
    import difflib
    import inspect

    kind = _own().get(step.transform) or getattr(library, step.transform, None)
    if not (inspect.isclass(kind) and issubclass(kind, library.BasicTransform)):
        near = difflib.get_close_matches(step.transform, [*_own(), *dir(library)], n=1)
        offer = f"; did you mean '{near[0]}'?" if near else ""
        raise ConfigError(f"{where}: albumentations has no transform '{step.transform}'{offer}")
    known = sorted(set(inspect.signature(kind).parameters))
    for parameter in step.parameters:
        if parameter not in known:
            raise ConfigError(f"{where}: {step.transform} has no parameter '{parameter}'; it has {', '.join(known)}")
    try:
        return kind(**{name: _ranges(value) for name, value in step.parameters.items()})
    except Exception as error:  # its checks of values raise TypeError, ValueError and pydantic's own
        raise ConfigError(f"{where}: {step.transform}: {_first_line(error)}") from error


def _ranges(value: Any) -> Any:
    """Lists, as TOML and JSON have them, as the tuples that albumentations wants."""
    if isinstance(value, list):
        return tuple(_ranges(part) for part in value)
    return value


def _first_line(error: BaseException) -> str:
    """What is wrong, in one line; of the several lines that checks of values give, the setting and the finding."""
    lines = str(error).splitlines() or [type(error).__name__]
    if "validation error" in lines[0] and len(lines) > 2:
        return f"{lines[1].strip()}: {lines[2].split(' [type=')[0].strip()}"
    return lines[0]

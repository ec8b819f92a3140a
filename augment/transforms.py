"""The one door to albumentations: a recipe becomes a picklable function on images.

albumentations is no longer maintained; it is pinned, and nothing but this file knows it.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from augment.recipes import Recipe
from curation.errors import ConfigError

Pixels = npt.NDArray[np.uint8]


@dataclass
class Transform:
    """``transform(image, seed)``: an (H, W, 3) uint8 image changed by the recipe, the same for the same seed."""

    recipe: Recipe
    _pipeline: Any = field(default=None, repr=False, compare=False)

    def __call__(self, image: Pixels, seed: int) -> Pixels:
        if self._pipeline is None:
            self._pipeline = _compose(self.recipe)
        self._pipeline.set_random_seed(seed)
        return np.asarray(self._pipeline(image=np.ascontiguousarray(image))["image"], dtype=np.uint8)

    def __getstate__(self) -> dict[str, Any]:
        return {"recipe": self.recipe, "_pipeline": None}


def build_transform(recipe: Recipe) -> Transform:
    """The recipe as a function; raises ConfigError for a transform or parameter that albumentations does not know."""
    return Transform(recipe, _compose(recipe))


def _compose(recipe: Recipe) -> Any:
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # its check for a newer version would ask the network
    import inspect

    import albumentations

    steps = []
    for step in recipe.steps:
        made = getattr(albumentations, step.transform, None)
        if not (inspect.isclass(made) and issubclass(made, albumentations.BasicTransform)):
            raise ConfigError(f"recipe '{recipe.name}': albumentations has no transform '{step.transform}'")
        known = set(inspect.signature(made).parameters)
        unknown = sorted(set(step.parameters) - known)
        if unknown:
            raise ConfigError(
                f"recipe '{recipe.name}': {step.transform} has no parameter '{unknown[0]}'; "
                f"it has {', '.join(sorted(known))}"
            )
        given = {k: tuple(v) if isinstance(v, list) else v for k, v in step.parameters.items()}
        try:
            steps.append(made(**given))
        except (TypeError, ValueError) as error:
            raise ConfigError(f"recipe '{recipe.name}': {step.transform}: {str(error).splitlines()[0]}") from None
    return albumentations.Compose(steps)

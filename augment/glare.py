"""Glare: white spots of soft edge, as a lamp or the sun leaves them on what shines."""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Integral, Real

import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]

#: Centres of spots lie within this part of the image's height and width.
_WITHIN = (0.15, 0.85)
#: How evenly spots share the area (Dirichlet), and by how much one is longer than wide at most (logarithm).
_EVENLY, _LONGER = 4.0, 0.8


@dataclass(frozen=True)
class Glare:
    """White ellipses over about a part of an image that lies within ``share`` (0 to 1).

    ``spots`` is the range of how many there are; from each outwards white fades to nothing over so many of its radii as
    lie within ``edge``. Where spots overlap or leave the image, less of it is white. Raises ValueError naming the range
    that is none.
    """

    share: tuple[float, float] = (0.05, 0.25)
    spots: tuple[int, int] = (1, 3)
    edge: tuple[float, float] = (0.3, 1.2)

    def __post_init__(self) -> None:
        for name, kind, least, most in (("share", Real, 0, 1), ("spots", Integral, 1, 100), ("edge", Real, 0, 100)):
            value = getattr(self, name)
            pair = isinstance(value, tuple) and len(value) == 2 and all(isinstance(v, kind) for v in value)
            if not (pair and least <= value[0] <= value[1] <= most):
                numbers = "whole numbers" if kind is Integral else "numbers"
                raise ValueError(f"{name} must be two {numbers} from {least} to {most}, the lower first, got {value}")

    def __call__(self, image: Pixels, rng: np.random.Generator) -> Pixels:
        """A new image (H, W, 3) with spots where ``rng`` puts them."""
        height, width = image.shape[:2]
        rows, columns = np.mgrid[:height, :width].astype(np.float32)
        light = np.zeros((height, width), dtype=np.float32)
        count = int(rng.integers(*self.spots, endpoint=True))
        for area in rng.uniform(*self.share) * height * width * rng.dirichlet(np.full(count, _EVENLY)):
            row, column = rng.uniform(*_WITHIN) * height, rng.uniform(*_WITHIN) * width
            angle, longer = rng.uniform(0, np.pi), np.exp(rng.uniform(0, _LONGER) / 2)
            along = (columns - column) * np.cos(angle) + (rows - row) * np.sin(angle)
            across = (rows - row) * np.cos(angle) - (columns - column) * np.sin(angle)
            radii = np.hypot(along / longer, across * longer) / max(np.sqrt(area / np.pi), 0.5)
            light = np.maximum(light, np.clip(1 - (radii - 1) / max(rng.uniform(*self.edge), 1e-3), 0, 1))
        shown = light[:, :, None]
        return np.asarray(image * (1 - shown) + 255 * shown + 0.5, dtype=np.uint8)

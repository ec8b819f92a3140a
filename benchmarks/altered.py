"""Images altered as weak slices are: darker, blurred, tilted, with glare, coarser, framed; and their properties.

Square or not, of any size; what is told in pixels is told at ``SIDE``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from curation.properties import MEASURE_SIDE, PROPERTIES, measure_pixels

Pixels = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float64]

SIDE = 112


def darken(image: Pixels, strength: float, rng: np.random.Generator) -> Pixels:
    """Keeps ``1 - strength`` of the light."""
    return np.asarray(image * (1 - strength), dtype=np.uint8)


def soften(image: Pixels, strength: float, rng: np.random.Generator) -> Pixels:
    """A Gaussian blur of ``strength`` pixels."""
    from PIL import Image, ImageFilter

    radius = strength * len(image) / SIDE
    return np.asarray(Image.fromarray(image).filter(ImageFilter.GaussianBlur(radius)))


def tilt(image: Pixels, strength: float, rng: np.random.Generator) -> Pixels:
    """Turned by ``strength`` degrees to either side, about a tenth more or less; the border is mirrored."""
    from PIL import Image

    angle = float(rng.choice([-1, 1]) * strength * rng.uniform(0.9, 1.1))
    border = len(image) // 2
    wide = np.pad(image, ((border, border), (border, border), (0, 0)), mode="symmetric")
    turned = Image.fromarray(wide).rotate(angle, Image.Resampling.BICUBIC)
    return np.asarray(turned)[border:-border, border:-border]


def glare(image: Pixels, strength: float, rng: np.random.Generator) -> Pixels:
    """White spots of soft edge over about ``strength`` of the image."""
    side = len(image)
    rows, columns = np.mgrid[:side, : image.shape[1]]
    light = np.zeros(image.shape[:2])
    for _ in range(2):
        row, column = rng.uniform(0.2, 0.8, 2) * side
        radius = side * np.sqrt(strength / 2 / np.pi)
        light += 1.6 * np.exp(-((((rows - row) ** 2 + (columns - column) ** 2) / radius**2) ** 2))
    share = np.clip(light, 0, 1)[:, :, None]
    return np.asarray(image * (1 - share) + 255 * share, dtype=np.uint8)


def shrink(image: Pixels, strength: float, rng: np.random.Generator) -> Pixels:
    """Scaled down to ``1 - strength`` of its side and up again."""
    from PIL import Image

    whole = (image.shape[1], len(image))
    small = max(4, round(len(image) * (1 - strength)))
    reduced = Image.fromarray(image).resize((small, small), Image.Resampling.BOX)
    return np.asarray(reduced.resize(whole, Image.Resampling.BILINEAR))


def frame(image: Pixels, strength: float, rng: np.random.Generator) -> Pixels:
    """A green, grainy border of ``strength`` of the side."""
    width = round(strength * len(image))
    framed = image.copy()
    border = np.ones(image.shape[:2], dtype=np.bool_)
    border[width:-width, width:-width] = False
    grain = rng.integers(-25, 25, (int(border.sum()), 1))
    framed[border] = np.clip(np.array([40, 140, 50]) + grain, 0, 255)
    return framed


Alter = Callable[[Pixels, float, np.random.Generator], Pixels]
ALTERED: dict[str, tuple[Alter, tuple[float, float]]] = {
    "darkened": (darken, (0.7, 0.88)),
    "blurred": (soften, (3.0, 6.0)),
    "tilted": (tilt, (20.0, 35.0)),
    "glare": (glare, (0.2, 0.4)),
    "low resolution": (shrink, (0.8, 0.9)),
    "spurious background": (frame, (0.08, 0.14)),
}


def measured(pixels: Sequence[Pixels] | Pixels) -> Floats:
    """Properties of images of shape (side, side, 3), in the order of ``PROPERTIES``; the same size for all."""
    fixed = {"width": SIDE, "height": SIDE, "aspect": 1.0, "jpeg_quality": 100.0}
    rows = [measure_pixels(at_measuring_scale(image)) | fixed for image in pixels]
    return np.array([[row[name] for name in PROPERTIES] for row in rows], dtype=np.float64)


def at_measuring_scale(image: Pixels) -> Pixels:
    """As small as an image file is made before its properties are measured."""
    from PIL import Image

    small = Image.fromarray(image)
    small.thumbnail((MEASURE_SIDE, MEASURE_SIDE), Image.Resampling.BICUBIC, reducing_gap=3.0)
    return np.asarray(small)

"""Contact sheets: what a recipe makes of images, before above after."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from PIL import Image

Pixels = npt.NDArray[np.uint8]

GAP = 4
CAPTION = 16


def contact_sheet(
    images: Sequence[Pixels],
    transform: Callable[[Pixels, int], Pixels],
    *,
    seed: int,
    columns: int = 6,
    tile: int = 128,
) -> bytes:
    """A PNG of images as they are, and below each what the transform makes of it.

    ``images`` are (H, W, 3) uint8 of any size and shape; each is fitted into a square of ``tile`` pixels. The n-th is
    changed with the seed ``seed + n``. Rows hold at most ``columns`` pairs; no images give one empty row.
    """
    from PIL import Image

    pairs = [(image, transform(image, seed + number)) for number, image in enumerate(images)]
    columns = max(1, min(columns, len(pairs)))
    band = 2 * (CAPTION + tile + GAP) + GAP
    height = max(1, -(-len(pairs) // columns)) * band
    sheet = Image.new("RGB", (columns * (tile + GAP) + GAP, height), "white")
    for number, pair in enumerate(pairs):
        left, top = GAP + number % columns * (tile + GAP), number // columns * band
        for line, (pixels, words) in enumerate(zip(pair, ("as is", "augmented"), strict=True)):
            _place(sheet, pixels, words, left, top + line * (CAPTION + tile + GAP), tile)
    out = io.BytesIO()
    sheet.save(out, "PNG")
    return out.getvalue()


def _place(sheet: Image.Image, pixels: Pixels, words: str, left: int, top: int, tile: int) -> None:
    """One captioned picture, in the middle of its square."""
    from PIL import Image, ImageDraw, ImageOps

    ImageDraw.Draw(sheet).text((left, top + 2), words, fill="black")
    picture = ImageOps.contain(Image.fromarray(pixels), (tile, tile), Image.Resampling.LANCZOS)
    sheet.paste(picture, (left + (tile - picture.width) // 2, top + CAPTION + (tile - picture.height) // 2))

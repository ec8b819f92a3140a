"""Contact sheets: what a recipe makes of images, before above after."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

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
    """A PNG with each image as it is, and below it what the transform makes of it.

    ``images`` are (H, W, 3) uint8 of any size; each is fitted into ``tile`` pixels. Rows of at most ``columns`` pairs.
    """
    from PIL import Image, ImageDraw

    pairs = [(image, transform(image, seed + number)) for number, image in enumerate(images)]
    columns = max(1, min(columns, len(pairs)))
    rows = -(-len(pairs) // columns)
    band = 2 * (tile + GAP + CAPTION) + GAP
    sheet = Image.new("RGB", (columns * (tile + GAP) + GAP, max(1, rows) * band), "white")
    pen = ImageDraw.Draw(sheet)
    for number, pair in enumerate(pairs):
        left = GAP + (number % columns) * (tile + GAP)
        top = (number // columns) * band
        for line, (pixels, words) in enumerate(zip(pair, ("as is", "augmented"), strict=True)):
            at = top + line * (tile + GAP + CAPTION)
            pen.text((left, at + 2), words, fill="black")
            picture = Image.fromarray(pixels)
            picture.thumbnail((tile, tile))
            sheet.paste(picture, (left, at + CAPTION))
    out = io.BytesIO()
    sheet.save(out, "PNG")
    return out.getvalue()

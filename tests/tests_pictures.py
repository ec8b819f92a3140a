"""Drawn pictures that tests of images share."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from curation.images import inspect_image
from curation.records import Sample


def picture(width: int = 60, height: int = 40, seed: int = 0) -> Image.Image:
    """A smooth coloured picture, its upper left corner the reddest."""
    red = np.linspace(250, 50, width)[None, :] * np.linspace(1, 0.4, height)[:, None]
    rest = np.full((height, width), 40 + seed % 100, dtype=np.float64)
    return Image.fromarray(np.dstack([red, rest, rest]).astype(np.uint8))


def sample_of(file: Path) -> Sample:
    facts = inspect_image(file)
    return Sample(facts.sha256, file.name, file, "train", width=facts.width, height=facts.height)


def samples_in(folder: Path, count: int) -> list[Sample]:
    made = []
    for number in range(count):
        file = folder / f"{number}.png"
        picture(60 + number, 40, seed=number).save(file)
        made.append(sample_of(file))
    return made

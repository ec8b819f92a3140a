"""Whether images have an upside: photographs mostly do, solar cells, tissue and satellite images don't.

Read from the images alone, no label: a photograph turned by half a circle is told from an upright one far more surely
than its mirror image is. Where it is not, images may be looked at upside down as well as mirrored.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Features = npt.NDArray[np.float32]

#: Images are taken to have an upside where turning is told so much more often than mirroring: photographs of ten
#: classes have 0.22 to 0.45, solar cells -0.04 to 0.06, 100 to 400 of them (docs/log.md).
MORE_OFTEN = 0.1
#: From here on turned images are taken to be told by their upside, even where mirror images are told as well, as those
#: of digits are, or near-duplicates tell all: solar cells are told in 0.72 to 0.86.
SURELY_TOLD = 0.9
_RIDGE = 0.1


def have_upside(upright: Features, mirrored: Features, turned: Features) -> bool:
    """Whether the images of these features, (images, dimensions) each, have an upside; of a hundred images or more."""
    of_turned = share_told(upright, turned)
    return of_turned >= SURELY_TOLD or of_turned - share_told(upright, mirrored) > MORE_OFTEN


def share_told(images: Features, changed: Features) -> float:
    """How often an image is told from its changed self by the others, 0.5 by chance; both (images, dimensions).

    By ridge regression of which is which on their standardised differences, each pair left out in closed form.
    """
    deviation = np.concatenate([images, changed]).std(axis=0)
    apart = (images - changed) / np.where(deviation > 1e-8, deviation, 1)
    apart /= np.maximum(np.linalg.norm(apart, axis=1, keepdims=True), 1e-6)
    products = (apart @ apart.T).astype(np.float64)
    hat = np.linalg.solve(products + _RIDGE * np.eye(len(products)), products)  # commutes with its inverse
    own = np.diag(hat)
    left_out = (hat.sum(axis=1) - own) / np.maximum(1 - own, 1e-9)
    return float(((left_out > 0) + 0.5 * (left_out == 0)).mean())

"""Images that slices are planted in: the data sets, and the networks that see images and altered versions of them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from benchmarks.altered import SIDE, Pixels, measured
from benchmarks.cases import cifar_table

if TYPE_CHECKING:
    from curation.features import FeatureStore, ViewFeatures
    from curation.records import Sample

Features = npt.NDArray[np.float32]
Columns = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Images:
    """Images with labels (columns of ``names``), their features and measured properties, all (images, ...).

    Pixels, features and properties are those at ``SIDE``; ``samples`` name the files.
    """

    name: str
    pixels: Pixels
    labels: Columns
    names: tuple[str, ...]
    features: Features
    properties: Floats
    samples: tuple[Sample, ...]


@dataclass(frozen=True)
class Seen:
    """What `curate run` makes of images: features for looks, views to judge labels by, properties; all (images, ...)"""

    looks: Features
    views: Features
    properties: Floats


@dataclass(frozen=True, eq=False)
class Eyes:
    """The toolkit's networks."""

    store: FeatureStore
    views: ViewFeatures

    def __call__(self, images: Pixels) -> Features:
        """Features of images of shape (n, side, side, 3)."""
        return self.store.encode(images)[0]

    def see(self, images: Sequence[Pixels]) -> Seen:
        """What is seen of images of any size, not kept."""
        from PIL import Image

        from curation.images import squash

        def at(side: int) -> Pixels:
            return np.stack([squash(Image.fromarray(image), side) for image in images])

        return Seen(self(at(self.store.backbone.size)), self.views.encode(at), measured(images))


def load_images(name: str, files: Sequence[Path], labels: Sequence[str], cache: Path) -> tuple[Images, Eyes]:
    """Images with features and properties, and what sees altered ones; kept in the cache."""
    from curation.backbone import load_backbone
    from curation.features import FeatureStore, ViewFeatures
    from curation.images import PixelCache, inspect_image
    from curation.records import Sample

    backbone = load_backbone("tf_efficientnet_lite0", size=SIDE)
    store = FeatureStore(backbone, PixelCache(cache / "pixels", SIDE), cache / "features")
    samples = [Sample(inspect_image(file).sha256, file.name, file, "train") for file in files]
    names = tuple(sorted(set(labels)))
    features, pixels = store.features(samples), np.array(store.pixels.pixels(samples))
    kept = cache / f"measured-{hashlib.sha256(''.join(s.id for s in samples).encode()).hexdigest()[:16]}.npy"
    if not kept.exists():
        np.save(kept, measured(pixels))
    columns = np.array([names.index(label) for label in labels], dtype=np.int64)
    images = Images(name, pixels, columns, names, np.asarray(features), np.load(kept), tuple(samples))
    return images, Eyes(store, ViewFeatures(backbone, cache / "views" / name))


def cifar(archive: Path, rows: int | None, cache: Path) -> tuple[Images, Eyes]:
    """The images of CIFAR-10N with their clean labels."""
    import pandas as pd

    file = cifar_table(archive, cache)
    table = pd.read_csv(file, dtype=str)[:rows]
    return load_images("CIFAR-10N", [file.parent / p for p in table["path"]], list(table["clean_label"]), cache)


def elpv(cache: Path) -> tuple[Images, Eyes]:
    """ELPV, functional or defective."""
    from curation.demo import read_elpv

    folder, cells = read_elpv()
    return load_images("ELPV", [folder / c.path for c in cells], [c.truth for c in cells], cache)

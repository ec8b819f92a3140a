"""Sets of labels to judge, with their truth: CIFAR-10N, a user's own table, ELPV with flipped labels, digits.

Features are those of the default backbone, beside what `curate flag` makes of the images for itself.
"""

from __future__ import annotations

import contextlib
import tempfile
import time
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

Features = npt.NDArray[np.float32]
Columns = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

CIFAR10N = ("aggre_label", "random_label1", "random_label2", "worse_label")
#: Share of ELPV labels that are flipped.
FLIPPED = 0.15


@dataclass(frozen=True)
class Case:
    """One set of labels to judge; ``given`` and ``truth`` are columns of ``names``, shape (images,).

    ``features`` everyone gets; ``views`` are what `curate flag` makes for itself (``curation.features.ViewFeatures``),
    of parts of these ``widths``. All images are judged, and figures are of those that are ``reported``.
    """

    name: str
    features: Features
    given: Columns
    truth: Columns
    names: tuple[str, ...]
    views: Features | None = None
    widths: tuple[int, ...] = ()
    reported: slice = field(default_factory=lambda: slice(None))


def cifar_cases(archive: Path, rows: int | None, cache: Path, given: Sequence[str] = CIFAR10N) -> list[Case]:
    """Label sets of CIFAR-10N in a zip."""
    table = cifar_table(archive, cache)
    return table_cases(table.parent, table, given, "clean_label", rows, cache)


def cifar_table(archive: Path, cache: Path) -> Path:
    """CIFAR-10N's table, its images beside it, unpacked where they are not yet; whole, as others may be reading."""
    folder = cache / "cifar10n"
    if not folder.exists():
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as temporary, zipfile.ZipFile(archive) as packed:
            whole = Path(temporary) / "whole"
            packed.extractall(whole)
            with contextlib.suppress(OSError):  # somebody else has unpacked it meanwhile
                whole.rename(folder)
    return next(folder.rglob("train.csv"))


def table_cases(
    images: Path, labels: Path, given: Sequence[str], truth: str, rows: int | None, cache: Path
) -> list[Case]:
    """One case for each column of given labels of a CSV with ``path``; features by the default backbone."""
    import pandas as pd

    table = pd.read_csv(labels, dtype=str, keep_default_na=False)[:rows]
    names = tuple(sorted({name for column in (*given, truth) for name in table[column]}))
    column_of = {name: column for column, name in enumerate(names)}

    def columns(column: str) -> Columns:
        return np.array([column_of[name] for name in table[column]], dtype=np.int64)

    features, views, widths = features_of([images / path for path in table["path"]], cache, images.name)
    return [Case(column, features, columns(column), columns(truth), names, views, widths) for column in given]


def elpv_cases(rows: int | None, cache: Path, seed: int) -> list[Case]:
    """ELPV, functional or defective, with labels flipped symmetrically, mostly one way, and where images look alike."""
    from curation.demo import read_elpv

    folder, cells = read_elpv()
    cells = cells[:rows]
    names = ("defective", "functional")
    truth = np.array([names.index(c.truth) for c in cells], dtype=np.int64)
    features, views, widths = features_of([folder / c.path for c in cells], cache, "elpv")
    rng = np.random.default_rng(seed)
    count = round(FLIPPED * len(truth))
    rival = nearest_rival(features, truth)
    chances = {
        "symmetric": np.ones(len(truth)),
        "one way": np.where(truth == 0, 4.0, 1.0),
        "alike": np.exp(8 * (rival - rival.mean()) / (rival.std() + 1e-9) / 4),
    }
    cases = []
    for name, weight in chances.items():
        given = truth.copy()
        flipped = rng.choice(len(truth), count, replace=False, p=weight / weight.sum())
        given[flipped] = 1 - given[flipped]
        cases.append(Case(f"ELPV, {name}", features, given, truth, names, views, widths))
    return cases


def nearest_rival(features: Features, truth: Columns) -> Floats:
    """Cosine with the nearest image of another class, shape (images,)."""
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    return np.array(
        [float((unit[truth != truth[row]] @ unit[row]).max()) for row in range(len(unit))], dtype=np.float64
    )


def features_of(
    files: Sequence[Path], cache: Path, name: str, size: int = 112
) -> tuple[Features, Features, tuple[int, ...]]:
    """Frozen features of images by the default backbone, its views, both (images, dimensions), and their widths.

    Views are kept under the data's ``name``.
    """
    from curation.backbone import load_backbone
    from curation.features import FeatureStore, ViewFeatures
    from curation.images import PixelCache, inspect_image
    from curation.records import Sample

    print(f"computing features of {len(files)} images", flush=True)
    backbone = load_backbone("tf_efficientnet_lite0", size=size)
    store = FeatureStore(backbone, PixelCache(cache / "pixels", backbone.size), cache / "features")
    facts = [inspect_image(file) for file in files]
    samples = [Sample(f.sha256, file.name, file, "train") for f, file in zip(facts, files, strict=True)]
    began = time.perf_counter()
    features = store.features(samples)
    plain = time.perf_counter() - began
    judge = ViewFeatures(backbone, cache / "views" / name)
    views = judge.features(samples)
    print(f"{plain:.0f} s at {size} px, {time.perf_counter() - began - plain:.0f} s for the views (0 where kept)")
    return features, views, judge.widths


def digits_case(seed: int = 0) -> Case:
    """scikit-learn's 1,797 digits as pixels; a tenth of the labels become those of the likest other digit."""
    from sklearn.datasets import load_digits

    pixels, truth = load_digits(return_X_y=True)
    features, truth = pixels.astype(np.float32), truth.astype(np.int64)
    rng = np.random.default_rng(seed)
    wrong = rng.permutation(len(truth))[: len(truth) // 10]
    means = np.stack([features[truth == digit].mean(axis=0) for digit in range(10)])
    distance = np.linalg.norm(features[:, None] - means[None], axis=2)
    distance[np.arange(len(truth)), truth] = np.inf
    given = truth.copy()
    given[wrong] = distance[wrong].argmin(axis=1)
    return Case("digits, planted", features, given, truth, tuple("0123456789"))

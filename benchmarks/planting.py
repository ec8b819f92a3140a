"""Weak slices planted in real images: in all of them, to be found, or in train and held-out rows, to be repaired."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np
import numpy.typing as npt

from benchmarks.altered import ALTERED, Pixels, measured
from benchmarks.images import Columns, Eyes, Features, Floats, Images, Mask, Seen
from curation.features import ViewFeatures, resized
from curation.images import read_image
from curation.neighbours import unit_directions
from curation.properties import PROPERTIES, measure_properties

if TYPE_CHECKING:
    import pandas as pd

Sites = npt.NDArray[np.str_]

#: Share of the images that there is an altered version of; slices to be found are drawn from it.
POOL = 0.12
#: Share of the first class (of 500 at most to be found, of 300 to be repaired) that the frame goes with.
FRAMED = 0.8
HELD_OUT = 0.3
#: Largest share of the train rows that is in a slice to be repaired; smaller ones are drawn from it.
LARGEST = 0.10
#: Share of a class that a rare subgroup is, before most of its train rows are taken away.
SUBGROUP = 0.4
#: Train rows that are never altered, at most: general policies make copies of them.
SPARE = 400


def sites(rng: np.random.Generator, count: int) -> Sites:
    """A column that says nothing: one of eight values by chance, shape (count,)."""
    return np.asarray(rng.choice([f"s{n}" for n in range(8)], count), dtype=np.str_)


def wrong_labels(labels: Columns, inside: Mask, strength: float, n_classes: int, rng: np.random.Generator) -> Columns:
    """Labels of which those ``inside`` are wrong with probability ``strength``; all (images,)."""
    labels = labels.copy()
    flipped = np.flatnonzero(inside)[rng.random(int(inside.sum())) < strength]
    labels[flipped] = (labels[flipped] + rng.integers(1, n_classes, len(flipped))) % n_classes
    return labels


# --- in all images, to be found


@dataclass(frozen=True)
class Planted:
    """What was planted: everything that contenders may see, and which rows are in the slice."""

    seen: Seen
    labels: Columns
    inside: Mask
    site: Sites


class Subject:
    """Images as `curate run` sees them, and altered versions of a fixed draw of them; both seen once and kept."""

    def __init__(self, images: Images, eyes: Eyes, cache: Path) -> None:
        self.images = images
        self.eyes = eyes
        self.cache = cache
        self.made: dict[tuple[str, float], tuple[Columns, Seen]] = {}

    @cached_property
    def plain(self) -> Seen:
        """The images as they are."""
        samples = self.images.samples
        measured = measure_properties(samples, self.cache / f"properties-{self.images.name}.parquet")
        return Seen(self.images.features, self.eyes.views.features(samples), measured.to_numpy(dtype=np.float64))

    def altered(self, kind: str, strength: float) -> tuple[Columns, Seen]:
        """Rows that there is an altered version of, and what is seen of it."""
        if (kind, strength) not in self.made:
            drawn = FRAMED if kind == "spurious background" else POOL
            width = sum(self.eyes.views.widths)
            about = ("views", width, self.images.name, len(self.images.labels), kind, strength, drawn)
            name = hashlib.sha256(repr(about).encode()).hexdigest()
            file = self.cache / f"altered-{name[:16]}.npz"
            if not file.exists():
                rows, seen = self._alter(kind, strength)
                np.savez(file, rows=rows, looks=seen.looks, views=seen.views, properties=seen.properties)
            with np.load(file) as kept:
                self.made[kind, strength] = kept["rows"], Seen(kept["looks"], kept["views"], kept["properties"])
        return self.made[kind, strength]

    def _alter(self, kind: str, strength: float) -> tuple[Columns, Seen]:
        rng = np.random.default_rng(7)
        rows = np.sort(rng.permutation(len(self.images.labels))[: round(POOL * len(self.images.labels))])
        if kind == "spurious background":  # the frame goes with the first class, and is put around the second
            of_class = [np.flatnonzero(self.images.labels == c) for c in (0, 1)]
            framed = rng.permutation(of_class[0])[: round(FRAMED * min(len(of_class[0]), 500))]
            rows = np.concatenate([framed, rng.permutation(of_class[1])[: len(rows)]])
        alter = ALTERED[kind][0]
        changed = [alter(read_image(self.images.samples[row].file), strength, rng) for row in rows]
        seen = self.eyes.see(changed)
        of_file = [PROPERTIES.index(name) for name in ("width", "height", "aspect", "jpeg_quality")]
        seen.properties[:, of_file] = self.plain.properties[rows][:, of_file]
        return rows, seen


def plant(subject: Subject, kind: str, strength: float, size: float, rng: np.random.Generator) -> Planted:
    """One slice of about ``size`` of the images."""
    images, plain = subject.images, subject.plain
    count = round(size * len(images.labels))
    labels, inside = images.labels, np.zeros(len(images.labels), dtype=np.bool_)
    site = sites(rng, len(labels))
    if kind in ("wrong labels, named", "wrong labels, look-alikes"):
        if kind == "wrong labels, named":
            inside[rng.choice(len(labels), count, replace=False)] = True
            site[inside] = "s8"
        else:
            unit = unit_directions(plain.looks)
            inside[np.argsort(-(unit @ unit[rng.integers(len(unit))]))[:count]] = True
        return Planted(plain, wrong_labels(labels, inside, strength, len(images.names), rng), inside, site)
    rows, altered = subject.altered(kind, strength)
    if kind == "spurious background":
        first, second = (np.flatnonzero(labels[rows] == c) for c in (0, 1))
        drawn = rng.permutation(second)[:count]
        changed = np.concatenate([first, drawn])
    else:
        changed = drawn = rng.permutation(len(rows))[:count]
    looks, views, properties = plain.looks.copy(), plain.views.copy(), plain.properties.copy()
    looks[rows[changed]], views[rows[changed]] = altered.looks[changed], altered.views[changed]
    properties[rows[changed]] = altered.properties[changed]
    inside[rows[drawn]] = True
    return Planted(Seen(looks, views, properties), labels, inside, site)


# --- in train and held-out rows, to be repaired


class Encoded:
    """Encodes images once, by their content."""

    def __init__(self, encode: Callable[[Pixels], Features], file: Path, width: int) -> None:
        from curation.features import RowFile

        self._encode = encode
        self._kept = RowFile(file, (width,), np.float32)

    def __call__(self, images: Pixels) -> Features:
        """Features (n, d) of images (n, side, side, 3)."""
        keys = [hashlib.sha256(np.ascontiguousarray(image).tobytes()).hexdigest() for image in images]
        known = self._kept.index()
        new = {key: row for row, key in enumerate(keys) if key not in known}
        if new:
            self._kept.append(list(new), self._encode(images[list(new.values())]))
        return np.asarray(self._kept.rows(keys), dtype=np.float32)


@dataclass(frozen=True, eq=False)
class Divided:
    """A data set divided once into train and held-out rows, with everything that is encoded of it.

    ``encoded`` sees images as those of a project are seen, ``copied`` as augmented copies are, without mirror images.
    """

    images: Images
    encoded: Encoded
    copied: Encoded
    folder: Path
    views: ViewFeatures
    share: float = HELD_OUT

    @property
    def widths(self) -> tuple[int, ...]:
        return self.views.widths

    @classmethod
    def of(cls, loaded: tuple[Images, Eyes], rows: int | None, cache: Path, share: float = HELD_OUT) -> Self:
        """A data set ready to be planted in, at the size of the first view; what is encoded is kept in the cache.

        ``share`` of the images is held out.
        """
        images, eyes = loaded
        samples, views = images.samples[:rows], eyes.views

        def encode(made: Pixels, mirror: bool) -> Features:
            return views.encode(partial(resized, made), mirror=mirror)

        folder = cache / "repair"
        folder.mkdir(exist_ok=True)
        pixels, properties = views.pixels(samples), folder / f"properties-{images.name}-{len(samples)}.npy"
        if not properties.exists():
            np.save(properties, measured(pixels))
        images = replace(
            images, samples=samples, pixels=pixels, labels=images.labels[: len(samples)],
            features=views.features(samples), properties=np.load(properties),
        )  # fmt: skip
        width = images.features.shape[1]
        encoded, copied = (
            Encoded(partial(encode, mirror=mirror), folder / f"{kind}-{images.name}-{width}.f32", width)
            for kind, mirror in (("views", True), ("copies", False))
        )
        return cls(images, encoded, copied, folder, views, share)

    @cached_property
    def order(self) -> Columns:
        return np.random.default_rng(7).permutation(len(self.images.labels))

    @cached_property
    def held(self) -> Columns:
        """Held-out rows."""
        return np.asarray(self.order[: round(self.share * len(self.order))])

    @cached_property
    def train(self) -> Columns:
        return np.asarray(self.order[len(self.held) :])

    @cached_property
    def spare(self) -> Columns:
        """Train rows that are never altered, and that general policies make copies of."""
        return np.asarray(self.train[::-1][: min(SPARE, len(self.train) // 3)])

    def altered(self, kind: str, strength: float, rows: Columns) -> Pixels:
        """Altered versions of rows, each always the same."""
        alter = ALTERED[kind][0]
        return np.stack([alter(self.images.pixels[r], strength, np.random.default_rng([7, int(r)])) for r in rows])


@dataclass(frozen=True)
class PlantedDivided:
    """A planted case; nothing may be chosen by held-out rows.

    ``rows`` are those of the images that are trained on; ``features`` (rows, d), ``labels``, ``inside`` and ``table``
    (properties) are theirs, ``pixels`` gives those of one of them by its place. ``held_*`` are of held-out rows, each
    image twice where it can be in the slice and out of it: the first time in, the second as it is. ``held_pixels``
    gives those of all; ``whole`` are features and labels to learn from, and ``whole_held`` features of the held-out
    rows in the slice, both without the weakness.
    """

    rows: Columns
    features: Features
    labels: Columns
    inside: Mask
    table: pd.DataFrame
    pixels: Callable[[int], Pixels]
    held: Columns
    held_features: Features
    held_labels: Columns
    held_inside: Mask
    whole: tuple[Features, Columns]
    whole_held: Features
    held_pixels: Callable[[], Pixels]


def plant_divided(data: Divided, kind: str, strength: float, size: float, seed: int) -> PlantedDivided:
    """One weak slice of about ``size`` of the train rows."""
    rng = np.random.default_rng([seed, round(1000 * size), round(1000 * strength)])
    if kind in ALTERED:
        return _plant_altered(data, kind, strength, size, rng)
    if kind == "rare subgroup":
        return _plant_rare(data, size, rng)
    return _plant_wrong(data, kind, strength, size, rng)


def _plant_altered(data: Divided, kind: str, strength: float, size: float, rng: np.random.Generator) -> PlantedDivided:
    images, train, count = data.images, data.train, round(size * len(data.train))
    held, held_inside = _twice(data.held)
    features, properties = images.features[train].copy(), images.properties[train].copy()
    may = np.flatnonzero(~np.isin(train, data.spare))
    first: Columns = np.zeros(0, dtype=np.int64)
    framed = first
    if kind == "spurious background":  # goes with the first class; the slice is what has it of the second
        held, held_inside = data.held, images.labels[data.held] == 1
        first, may = np.flatnonzero(images.labels[train] == 0), may[images.labels[train[may]] == 1]
        framed, count = first[: round(FRAMED * min(len(first), 300))], min(count, len(may) // 3)
    own = rng.permutation(may[: round(1.5 * LARGEST * len(train))])[:count]
    changed = np.concatenate([framed, own])
    pixels = data.altered(kind, strength, train[changed])
    features[changed], properties[changed] = data.encoded(pixels), measured(pixels)
    inside = np.zeros(len(train), dtype=np.bool_)
    inside[own] = True
    held_altered = held_inside.copy()
    if len(framed):  # the first class wears the frame as often as where it is learned from
        of_first = np.flatnonzero(images.labels[held] == 0)
        held_altered[of_first[: round(len(framed) / len(first) * len(of_first))]] = True
    held_features = images.features[held].copy()
    held_features[held_altered] = data.encoded(data.altered(kind, strength, held[held_altered]))

    def held_pixels() -> Pixels:
        changed = images.pixels[held].copy()
        changed[held_altered] = data.altered(kind, strength, held[held_altered])
        return changed

    seen = dict(zip(changed.tolist(), pixels, strict=True))
    labels = images.labels[train]
    return _planted(
        data, features, labels, inside, properties, sites(rng, len(train)), held_features, held_inside,
        (features, labels), held=held, pixels=lambda row: seen.get(row, images.pixels[train[row]]),
        held_pixels=held_pixels,
    )  # fmt: skip


def _twice(held: Columns) -> tuple[Columns, Mask]:
    """Held-out rows twice, and which are the first time: what is measured in the slice and out of it."""
    return np.concatenate([held, held]), np.arange(2 * len(held)) < len(held)


def _plant_wrong(data: Divided, kind: str, strength: float, size: float, rng: np.random.Generator) -> PlantedDivided:
    images, train, held = data.images, data.train, data.held
    count, site = round(size * len(train)), sites(rng, len(train))
    inside = np.zeros(len(train), dtype=np.bool_)
    held_inside: Mask = np.zeros(len(held), dtype=np.bool_)
    if kind == "wrong labels, named":
        inside[rng.permutation(len(train))[:count]] = True
        held, held_inside = _twice(held)
        site[inside] = "s8"
    else:
        unit = unit_directions(images.features)
        near = unit @ unit[train[rng.integers(len(train))]]
        inside[np.argsort(-near[train])[:count]] = True
        held_inside[np.argsort(-near[held])[: max(round(size * len(held)), 60)]] = True
    labels = wrong_labels(images.labels[train], inside, strength, len(images.names), rng)
    return _planted(
        data, images.features[train], labels, inside, images.properties[train], site, images.features[held],
        held_inside, (images.features[train], images.labels[train]), held=held,
    )  # fmt: skip


def _plant_rare(data: Divided, size: float, rng: np.random.Generator) -> PlantedDivided:
    """Of 40 % of a class that look alike, all but a few train rows are missing."""
    images, train, held = data.images, data.train, data.held
    centre = train[rng.integers(len(train))]
    of_class = images.labels == images.labels[centre]
    unit = unit_directions(images.features)
    near = np.where(of_class, unit @ unit[centre], -np.inf)
    group = np.argsort(-near)[: round(SUBGROUP * of_class.sum())]
    members = np.flatnonzero(np.isin(train, group))
    few = rng.permutation(members)[: max(20, round(0.15 * size * len(train)))]
    kept = np.sort(np.concatenate([np.setdiff1d(np.arange(len(train)), members), few]))
    labels, held_inside = images.labels[train], np.isin(held, group)
    return _planted(
        data, images.features[train[kept]], labels[kept], np.isin(kept, few), images.properties[train[kept]],
        sites(rng, len(kept)), images.features[held], held_inside,
        (images.features[train], labels), rows=train[kept],
    )  # fmt: skip


def _planted(
    data: Divided, features: Features, labels: Columns, inside: Mask, properties: Floats, site: Sites,
    held_features: Features, held_inside: Mask, whole: tuple[Features, Columns], *, rows: Columns | None = None,
    held: Columns | None = None, pixels: Callable[[int], Pixels] | None = None,
    held_pixels: Callable[[], Pixels] | None = None,
) -> PlantedDivided:  # fmt: skip
    import pandas as pd

    rows, held = data.train if rows is None else rows, data.held if held is None else held
    table = pd.DataFrame(properties, columns=list(PROPERTIES)).assign(site=site)
    return PlantedDivided(
        rows, features, labels, inside, table, pixels or (lambda row: data.images.pixels[rows[row]]), held,
        held_features, data.images.labels[held], held_inside, whole, data.images.features[held[held_inside]],
        held_pixels or (lambda: data.images.pixels[held]),
    )  # fmt: skip

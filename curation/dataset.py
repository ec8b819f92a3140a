"""Reads folders and tables into samples and given labels, finding duplicates and contradictions on the way.

A row that can't be used is set aside with its reason; a table or folder that can't be used at all is a DataError with
file and row. Splits are drawn here: stratified by label, seeded, duplicates and groups kept together.
"""

from __future__ import annotations

import csv
import hashlib
import io
import os
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from curation.errors import DataError, printable
from curation.images import ImageFacts, inspect_image
from curation.records import MetadataValue, Progress, Split, check_class_name
from curation.tables import plain_cell

#: The usual names of what is decoded (``images.FORMATS``).
IMAGE_SUFFIXES = frozenset({
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".avif", ".jp2", ".j2k",
    ".ppm", ".pgm", ".pbm", ".pnm",
})  # fmt: skip
#: Names of images that are not decoded: listed with the others, so that each is set aside with its reason.
_OTHER_SUFFIXES = frozenset({".heic", ".heif", ".hif", ".jxl", ".tga", ".dcm", ".psd", ".exr"})
SPLITS: tuple[Split, ...] = ("train", "holdout", "pool")
_SPLIT_ALIASES = {"test": "holdout", "val": "holdout", "valid": "holdout", "validation": "holdout", "unlabeled": "pool"}
_NO_VALUE = frozenset({"", "nan", "none", "null", "na", "n/a"})


@dataclass(frozen=True)
class Row:
    """One row as it was given: ``path`` relative to ``root`` (or absolute), label and split as text or ``None``."""

    path: str
    root: Path
    label: str | None
    split: Split | None
    group: str | None
    metadata: Mapping[str, MetadataValue]
    where: str

    @property
    def file(self) -> Path:
        """Where the image lies."""
        return self.root / self.path


@dataclass(frozen=True)
class SetAside:
    """A row that could not be used, and why."""

    where: str
    path: str
    reason: str


@dataclass(frozen=True)
class Found:
    """Rows with the facts of their images, and the rows set aside."""

    rows: tuple[tuple[Row, ImageFacts], ...]
    set_aside: tuple[SetAside, ...] = ()


@dataclass(frozen=True)
class Gathered:
    """One image of an import: all its rows, one split, one group, and one label where the rows agree on it."""

    id: str
    facts: ImageFacts
    rows: tuple[Row, ...]
    split: Split
    group: str | None
    label: str | None
    notes: tuple[str, ...] = field(default=())


def rows_of_folder(images: Path) -> list[Row]:
    """Rows of a folder of class folders; images directly in it have no label and belong to the pool.

    Raises DataError where the folder is missing or holds no image.
    """
    _check_folder(images)
    rows = []
    for file in _image_files(images):
        path = file.relative_to(images)
        label = text_of(path.parts[0]) if len(path.parts) > 1 else None
        split: Split | None = None if label else "pool"
        rows.append(Row(path.as_posix(), images, label, split, None, {}, str(path)))
    if all(os.path.isdir(row.file) for row in rows):
        raise DataError(f"{images} holds no images ({', '.join(sorted(IMAGE_SUFFIXES))}); name the folder that does")
    return rows


def rows_of_table(labels: Path, images: Path, *, label_column: str = "label") -> list[Row]:
    """Rows of a CSV or Parquet table with ``path``, ``label`` and optionally ``split`` and ``group``.

    Every other column is metadata. Raises DataError naming file and row for what is wrong.
    """
    _check_folder(images)
    if not labels.exists():
        raise DataError(f"{labels} does not exist; give the table of labels with --labels FILE")
    header, records = read_table(labels)
    if "path" not in header:
        raise DataError(f"{labels} has no column 'path'; it has {', '.join(header) or 'none'}: rename the right one")
    if label_column not in header:
        raise DataError(
            f"{labels} has no column '{label_column}'; it has {', '.join(header)}: "
            "name the right one with --label-column"
        )
    meta = [c for c in header if c not in ("path", label_column, "split", "group")]
    types = {column: _number_type(record.get(column) for _, record in records) for column in meta}
    rows = []
    for number, record in records:
        where = f"{labels.name} row {number}"
        path = text_of(record.get("path"))
        if path is None:
            raise DataError(f"{labels} row {number}: the path is empty; fill it in or remove the row")
        rows.append(
            Row(
                path, images, text_of(record.get(label_column)), _split(record.get("split"), labels, number),
                text_of(record.get("group")), {c: _convert(record.get(c), types[c]) for c in meta}, where,
            )
        )  # fmt: skip
    if not rows:
        raise DataError(f"{labels} has a header but no rows; add one row an image")
    return rows


def inspect_rows(rows: Sequence[Row], *, progress: Progress | None = None, workers: int | None = None) -> Found:
    """Read every image once: its content id and size. What can't be used is set aside.

    Raises DataError where no image at all could be used, with the first reason.
    """
    good: list[tuple[Row, ImageFacts]] = []
    aside: list[SetAside] = []
    with ThreadPoolExecutor(workers or min(8, os.cpu_count() or 1)) as pool:
        for done, (row, facts) in enumerate(zip(rows, pool.map(_inspect, rows), strict=True), start=1):
            if isinstance(facts, ImageFacts):
                good.append((row, facts))
            else:
                aside.append(SetAside(printable(row.where), printable(row.path), printable(facts)))
            if progress and (done % 100 == 0 or done == len(rows)):
                progress("reading images", done, len(rows))
    if not good:
        first = aside[0]
        raise DataError(f"none of the {len(rows)} images can be used; the first, {first.where}: {first.reason}")
    return Found(tuple(good), tuple(aside))


def gather(
    found: Found, *, known_splits: Mapping[str, Split], seed: int, holdout_share: float, draw_holdout: bool = True
) -> list[Gathered]:
    """Put rows of the same content together and give each image its split.

    ``known_splits`` are those of samples that the ledger has, which stay. Where no row names a split, ``holdout_share``
    of the labeled become holdout: stratified by label, seeded, groups and duplicates together. A picture that is in
    train and in holdout stays in the holdout; one with several labels gets the label of most of its rows, on a tie the
    first, with a note. New images of the pool whose group is in the holdout go there too, without a label.
    """
    by_content: dict[str, list[tuple[Row, ImageFacts]]] = defaultdict(list)
    for row, facts in found.rows:
        by_content[facts.sha256].append((row, facts))
    images = [_gather_one(content, pairs, known_splits.get(content)) for content, pairs in by_content.items()]
    images = _one_split_a_group(images)
    anything_named = any(row.split in ("train", "holdout") for row, _ in found.rows)
    if anything_named or known_splits or not draw_holdout:
        drawn: Collection[str] = ()
    else:
        drawn = _draw_holdout(images, seed=seed, share=holdout_share)
    settled = [
        _with_split(i, ("holdout" if i.id in drawn else "train") if i.split == "undrawn" else i.split) for i in images
    ]
    return _pool_beside_group(settled, known_splits)


def labels_of(images: Iterable[Gathered]) -> list[str]:
    """All labels that rows of these images have, in alphabetical order."""
    return sorted({row.label for image in images for row in image.rows if row.label is not None})


def check_names(images: Sequence[Gathered]) -> None:
    """Raise DataError for a class whose name can't be shown to people."""
    for name in labels_of(images):
        check_class_name(name)


def check_classes(images: Sequence[Gathered]) -> None:
    """Raise DataError where training could not work: fewer than two classes, also in train alone; a class with a single
    image; train of one group, of which no image could be judged by the others.

    And for what ``check_names`` does not take.
    """
    check_names(images)
    counts = Counter(i.label for i in images if i.label is not None)
    if len(counts) > 50 and len(counts) > sum(counts.values()) / 2 and all(_is_number(name) for name in counts):
        raise DataError(
            f"the {len(counts)} different labels look like measurements ({min(counts)} ...), not classes; "
            "put a class into the column 'label'"
        )
    if not counts:
        raise DataError("no image has a label; put images into class folders or give a table with --labels")
    if len(counts) < 2:
        only = next(iter(counts))
        raise DataError(f"all {counts[only]} labeled images are '{only}'; at least two classes are needed")
    single = sorted(name for name, count in counts.items() if count < 2)
    if single:
        raise DataError(f"class '{single[0]}' has a single image; give it at least two, or remove it")
    _check_train([i for i in images if i.label is not None])


def _check_train(labeled: Sequence[Gathered]) -> None:
    train = [i for i in labeled if i.split == "train"]
    if not train:
        raise DataError(
            f"none of the {len(labeled)} labeled images is in train; give some the split 'train', or none a split"
        )
    if len({i.label for i in train}) < 2:
        raise DataError(
            f"all {len(train)} labeled images of train are '{train[0].label}'; at least two classes are needed there"
        )
    if train[0].group is not None and len({i.group for i in train}) < 2:
        raise DataError(
            f"all {len(train)} labeled images of train are of the group '{train[0].group}', so that none can be judged "
            "by others; give groups that divide them"
        )


def without_holdout(images: Sequence[Gathered]) -> str:
    """A sentence on an import of which nothing is set apart to measure on; '' where something is."""
    if any(i.split == "holdout" and i.label is not None for i in images):
        return ""
    return "no labeled image is in the holdout, so that no gain can be measured; bring some in with the split 'holdout'"


def _check_folder(images: Path) -> None:
    if not images.exists():
        raise DataError(f"{images} does not exist; name the folder of images with --images")
    if not images.is_dir():
        raise DataError(f"{images} is not a folder; name the folder that holds the images with --images")


def _image_files(folder: Path) -> list[Path]:
    """Images below a folder, through links to folders too; a link to a folder that was seen already is listed itself,
    so that it is set aside with its reason.
    """
    found: list[Path] = []
    seen = {os.path.realpath(folder)}
    for parent, folders, files in os.walk(folder, followlinks=True):
        onward = []
        for name in sorted(folders):
            place = os.path.realpath(os.path.join(parent, name))
            if name.startswith("."):
                continue
            if place in seen and os.path.islink(os.path.join(parent, name)):
                found.append(Path(parent) / name)
            else:
                seen.add(place)
                onward.append(name)
        folders[:] = onward
        images = IMAGE_SUFFIXES | _OTHER_SUFFIXES
        found += [Path(parent) / name for name in sorted(files) if Path(name).suffix.lower() in images]
    return found


def read_table(file: Path) -> tuple[list[str], list[tuple[int, dict[str, Any]]]]:
    """Header and rows of a CSV (UTF-8) or Parquet table, each row with its number in the file.

    Raises DataError naming file and row for what can't be read.
    """
    if file.suffix.lower() in (".parquet", ".pq"):
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            table = pq.read_table(file)  # type: ignore[no-untyped-call]  # pyarrow has no types
        except (pa.ArrowInvalid, OSError) as error:
            raise DataError(f"{file} is not a readable Parquet file: {error}") from None
        return list(table.column_names), list(enumerate(table.to_pylist(), start=1))
    try:
        text = file.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        number = error.object[: error.start].count(b"\n") + 1
        raise DataError(f"{file} row {number}: not UTF-8 text; save the table as UTF-8 CSV") from None
    except OSError as error:
        raise DataError(f"{file} can't be read: {error.strerror}") from None
    reader = csv.reader(io.StringIO(text, newline=""))  # not splitlines, which knows more ends of lines than CSV
    try:
        lines = [(reader.line_num, cells) for cells in reader if any(cell.strip() for cell in cells)]
    except csv.Error as error:
        raise DataError(f"{file} row {reader.line_num}: {error}") from None
    if not lines:
        raise DataError(f"{file} is empty; it needs a header with 'path' and 'label'")
    header = [plain_cell(cell.strip()) for cell in lines[0][1]]
    if len(set(header)) != len(header):
        raise DataError(f"{file} names a column twice in its header: {', '.join(header)}")
    for number, line in lines[1:]:
        if len(line) != len(header):
            raise DataError(f"{file} row {number}: {len(line)} cells where the header has {len(header)}")
    return header, [(number, dict(zip(header, map(plain_cell, line), strict=True))) for number, line in lines[1:]]


def text_of(value: Any) -> str | None:
    """A cell as text without space around it; whole numbers without a point, ``None`` where there is nothing."""
    if value is None or (isinstance(value, float) and value != value):
        return None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    text = str(value).strip()
    return text or None


def _split(value: Any, file: Path, number: int) -> Split | None:
    text = (text_of(value) or "").lower()
    if not text:
        return None
    text = _SPLIT_ALIASES.get(text, text)
    for split in SPLITS:
        if text == split:
            return split
    raise DataError(f"{file} row {number}: split '{value}' is none of {', '.join(SPLITS)}")


def _number_type(values: Iterable[Any]) -> type:
    """What a metadata column holds: float where every value that is there reads as a number, else str.

    Numbers that begin with a zero, as lots and serial numbers do, are names: 007 is not 7.
    """
    seen = False
    for value in values:
        text = text_of(value)
        if text is None or text.lower() in _NO_VALUE:
            continue
        seen = True
        if not _is_number(text) or (len(text) > 1 and text[0] == "0" and text.isdigit()):
            return str
    return float if seen else str


def _is_number(text: str) -> bool:
    """Whether a text is a number, as tables have them and not only Python.

    >>> [_is_number(text) for text in ("-1.5e3", "1_10", "one")]
    [True, False, False]
    """
    if "_" in text:
        return False
    try:
        float(text)
    except ValueError:
        return False
    return True


def _convert(value: Any, kind: type) -> MetadataValue:
    text = text_of(value)
    if text is None or text.lower() in _NO_VALUE:
        return None
    return float(text) if kind is float else text


def _inspect(row: Row) -> ImageFacts | str:
    if not _is_text(row.path):
        return f"{printable(row.path)} has a name that is no UTF-8 text; rename it"
    if not Path(row.path).is_absolute() and os.path.normpath(row.path).startswith(".."):
        return f"'{row.path}' leads out of the folder of images; give it as an absolute path, or name a folder above"
    if os.path.islink(row.file) and os.path.isdir(row.file):
        return f"{row.file} is a link to a folder that is read already; nothing is lost by leaving it out"
    try:
        return inspect_image(row.file)
    except DataError as error:
        return str(error)


def _is_text(name: str) -> bool:
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


@dataclass(frozen=True)
class _Draft:
    id: str
    facts: ImageFacts
    rows: tuple[Row, ...]
    split: str  # a Split, or "undrawn"
    group: str | None
    label: str | None
    notes: tuple[str, ...]


def _gather_one(content: str, pairs: Sequence[tuple[Row, ImageFacts]], known: Split | None) -> _Draft:
    rows = tuple(row for row, _ in pairs)
    labels = Counter(row.label for row in rows if row.label is not None)
    label = labels.most_common(1)[0][0] if labels else None
    notes = []
    if len(labels) > 1:
        given = ", ".join(f"'{name}' ({count})" for name, count in labels.items())
        # Flagged is what the ledger shows, which has a path once, as its first row gives it.
        kept = {row.file: row.label for row in reversed(rows)}
        flagged = ", and it is flagged" if len(set(kept.values()) - {None}) > 1 else ""
        notes.append(f"{rows[0].path}: the same picture has the labels {given}; '{label}' is taken{flagged}")
    named = {row.split for row in rows if row.split}
    if known is not None:
        split: str = known
    elif "holdout" in named:
        split = "holdout"
        if "train" in named:
            notes.append(f"{rows[0].path}: the same picture is in train and in holdout; the holdout keeps it")
    elif label is None:
        split = "pool"
    else:
        split = next((s for s in ("train", "pool") if s in named), "undrawn")
    group = next((row.group for row in rows if row.group), None)
    return _Draft(content, pairs[0][1], rows, split, group, label, tuple(notes))


def _one_split_a_group(images: Sequence[_Draft]) -> list[_Draft]:
    """A group that has a holdout member and labeled members elsewhere goes to the holdout as a whole."""
    in_holdout = {i.group for i in images if i.group and i.split == "holdout"}
    result = []
    for image in images:
        if image.group in in_holdout and image.split in ("train", "undrawn"):
            note = f"{image.rows[0].path}: its group '{image.group}' has images in the holdout; the holdout keeps it"
            image = _Draft(image.id, image.facts, image.rows, "holdout", image.group, image.label, (*image.notes, note))
        result.append(image)
    return result


def _pool_beside_group(images: Sequence[Gathered], known: Collection[str]) -> list[Gathered]:
    """New images of the pool whose group is in the holdout go there: labeled by people, they would be trained on."""
    held = {i.group for i in images if i.group and i.split == "holdout"}
    result = []
    for image in images:
        if image.split == "pool" and image.group in held and image.id not in known:
            note = f"{image.rows[0].path}: its group '{image.group}' is in the holdout; it is not asked about"
            image = replace(image, split="holdout", label=None, notes=(*image.notes, note))
        result.append(image)
    return result


def beside_group(image: Gathered, held: Collection[str], trained: Collection[str]) -> Gathered:
    """A new image in the split of its group, where that is known: no group is divided between train and holdout.

    ``held`` and ``trained`` are the groups with images in the holdout and in train.
    """
    if image.group in held:
        return replace(image, split="holdout")
    if image.split != "holdout" or image.group not in trained:
        return image
    note = f"{image.rows[0].path}: its group '{image.group}' is trained on; it can't go to the holdout"
    split: Split = "pool" if image.label is None else "train"
    return replace(image, split=split, notes=(*image.notes, note))


def _draw_holdout(images: Sequence[_Draft], *, seed: int, share: float) -> set[str]:
    """Ids of the drawn holdout: per label, whole groups in a seeded order until the share is reached.

    The order depends on content and seed alone, not on the order of rows. Each class keeps at least one train image.
    """
    candidates = [i for i in images if i.split == "undrawn"]
    groups: dict[str, list[_Draft]] = defaultdict(list)
    for image in candidates:
        groups[image.group or image.id].append(image)
    strata: dict[str, list[list[_Draft]]] = defaultdict(list)
    for members in groups.values():
        common = Counter(m.label for m in members).most_common(1)[0][0]
        strata[common or ""].append(members)
    left = Counter(i.label for i in candidates)
    chosen: set[str] = set()
    for label in sorted(strata):
        ordered = sorted(strata[label], key=lambda members: _draw_key(min(m.id for m in members), seed))
        wanted = share * sum(len(members) for members in ordered)
        taken = 0
        for members in ordered:
            counts = Counter(m.label for m in members)
            if taken + len(members) / 2 > wanted or any(left[name] - n < 1 for name, n in counts.items()):
                continue
            chosen.update(m.id for m in members)
            left.subtract(counts)
            taken += len(members)
    return chosen


def _draw_key(content: str, seed: int) -> str:
    return hashlib.sha256(f"{seed}:{content}".encode()).hexdigest()


def _with_split(image: _Draft, split: str) -> Gathered:
    known = next(s for s in SPLITS if s == split)
    return Gathered(image.id, image.facts, image.rows, known, image.group, image.label, image.notes)

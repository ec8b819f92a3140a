"""Predictions of somebody's own model, read from a table."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from curation.dataset import read_table
from curation.errors import DataError
from curation.records import Classes, Predictions

#: How far from 1 the probabilities of an image may add up, from rounding in the file: at least so much, or three
#: decimals' worth in each of many columns.
ROUNDING = 0.02
ROUNDING_A_COLUMN = 0.0005
#: How far below 0 or above 1 a probability may be, from arithmetic in single precision.
EXACT = 1e-5


def read_predictions(
    file: Path,
    classes: Classes,
    names: Mapping[str, Sequence[str]],
    labels: Mapping[str, str],
    merged: Mapping[str, str] | None = None,
) -> Predictions:
    """Out-of-sample class probabilities from a CSV or Parquet table: ``path``, and a column a class by its name.

    ``names`` maps a sample's id to all that ``path`` may call it, its path as it was given first; ``labels`` samples to
    class ids, those that are wanted. Samples come back in that order, those without a row left out, and so are rows of
    other images; several rows of a sample that has several names count as their mean. Columns may stand in any order,
    and others beside them are left alone. A class needs one only where a label of these samples names it, else it has
    no probability without; the column of a ``merged`` class (by id, with what it belongs to) counts for that one. Rows
    are scaled to add up to 1. The user vouches for it that no image was predicted by a model trained on it; folds are
    -1. Raises DataError naming file and row or column for what can't be used.
    """
    if not file.exists():
        raise DataError(f"{file} does not exist; give a table with 'path' and a column of probabilities a class")
    header, records = read_table(file)
    live = [name for class_id, name in classes if class_id not in (merged or {})]
    wanted = f"it needs 'path' and one column a class: {', '.join(live)}"
    if "path" not in header:
        raise DataError(f"{file} has no column 'path'; {wanted}")
    rows = _rows_by_sample(file, records, names, labels)
    columns = {class_id: name for class_id, name in classes if name in header and name != "path"}
    missing = [c for c in dict.fromkeys(labels[s] for s in rows) if c not in columns]
    if missing and classes.name(missing[0]) == "path":
        raise DataError(
            f"{file}: column 'path' names the images, so the class 'path' has none; give the class another name "
            "(`curate classes --rename`), and its column that one"
        )
    if missing:
        raise DataError(f"{file} has no column '{classes.name(missing[0])}'; {wanted}")
    probabilities = np.zeros((len(rows), len(columns)))
    for place, own in enumerate(rows.values()):
        probabilities[place] = np.mean([_probabilities(row, columns.values(), file, number) for number, row in own], 0)
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    read = Predictions(tuple(rows), tuple(columns), probabilities, np.full(len(rows), -1, dtype=np.int64))
    return read.over(classes.ids, merged)


def _rows_by_sample(
    file: Path,
    records: Sequence[tuple[int, Mapping[str, Any]]],
    names: Mapping[str, Sequence[str]],
    labels: Mapping[str, str],
) -> dict[str, list[tuple[int, Mapping[str, Any]]]]:
    """The rows of each labeled sample that has any, with their numbers, in the order of ``labels``."""
    owners: dict[str, list[str]] = {}
    for sample_id, own in names.items():
        for name in dict.fromkeys(own):
            owners.setdefault(name, []).append(sample_id)
    found: dict[str, list[tuple[int, Mapping[str, Any]]]] = {}
    seen: set[str] = set()
    for number, record in records:
        path = str(record["path"] or "").strip()
        whose = owners.get(path, [])
        if not any(s in labels for s in whose):
            continue
        if len(whose) > 1:
            apart = [repr(next((n for n in names[s] if len(owners[n]) == 1), s)) for s in whose]
            raise DataError(
                f"{file} row {number}: {len(whose)} images have the path '{path}'; name each by one of its own, "
                f"for instance {' and '.join(apart)}"
            )
        if path in seen:
            raise DataError(f"{file} row {number}: '{path}' has a row already; keep one row an image")
        seen.add(path)
        found.setdefault(whose[0], []).append((number, record))
    if not found:
        ours = next((names[s][0] for s in labels if names.get(s)), "")
        theirs = str(records[0][1]["path"] or "") if records else ""
        raise DataError(
            f"{file}: no path of it is a labeled image of this project; they must read as given to `curate init`, "
            f"for instance '{ours}', not '{theirs}'"
        )
    return {s: found[s] for s in labels if s in found}


def _probabilities(record: Mapping[str, Any], names: Iterable[str], file: Path, number: int) -> list[float]:
    values = []
    for name in names:
        try:
            value = float(record[name])
        except (TypeError, ValueError):
            raise DataError(f"{file} row {number}: '{record[name]}' for '{name}' is no probability") from None
        if not -EXACT <= value <= 1 + EXACT:  # also where it is no number at all
            raise DataError(
                f"{file} row {number}: {value:.9g} for '{name}' is no probability; give numbers from 0 to 1"
            )
        values.append(min(max(value, 0.0), 1.0))
    total = sum(values)
    if abs(total - 1) > min(max(ROUNDING, ROUNDING_A_COLUMN * len(values)), 0.5):
        raise DataError(
            f"{file} row {number}: the probabilities add up to {total:.3g}, not to 1; give those after the softmax"
        )
    return values

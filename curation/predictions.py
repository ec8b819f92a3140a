"""Predictions of somebody's own model, read from a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from curation.dataset import read_table
from curation.errors import DataError
from curation.records import Classes, Predictions

#: How far from 1 the probabilities of an image may add up, from rounding in the file.
ROUNDING = 0.02


def read_predictions(file: Path, classes: Classes, paths: Mapping[str, Sequence[str]]) -> Predictions:
    """Out-of-sample class probabilities from a CSV or Parquet table: ``path``, and a column a class by its name.

    ``paths`` maps a sample's id to its paths as they were given; samples come back in that order, those without a row
    left out, and so are rows of other images. Columns may stand in any order, and others beside them are left alone.
    Rows are scaled to add up to 1. The user vouches for it that no image was predicted by a model trained on it; folds
    are -1. Raises DataError naming file and row or column for what can't be used.
    """
    if not file.exists():
        raise DataError(f"{file} does not exist; give a table with 'path' and a column of probabilities a class")
    header, records = read_table(file)
    missing = [name for name in ("path", *classes.names) if name not in header]
    if missing:
        raise DataError(
            f"{file} has no column '{missing[0]}'; it needs 'path' and one column a class: {', '.join(classes.names)}"
        )
    row_of: dict[str, int] = {}
    rows: list[list[float]] = []
    for number, record in records:
        path = str(record["path"] or "").strip()
        if path in row_of:
            raise DataError(f"{file} row {number}: '{path}' has a row already; keep one row an image")
        row_of[path] = len(rows)
        rows.append(_probabilities(record, classes, file, number))
    found = {s: row_of[path] for s, given in paths.items() for path in given if path in row_of}
    if not found:
        ours = next((path for given in paths.values() for path in given), "")
        theirs = next(iter(row_of), "")
        raise DataError(
            f"{file}: no path of it is a labeled image of this project; they must read as given to `curate init`, "
            f"for instance '{ours}', not '{theirs}'"
        )
    probabilities = np.array(rows, dtype=np.float64)[list(found.values())]
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    return Predictions(tuple(found), classes.ids, probabilities, np.full(len(found), -1, dtype=np.int64))


def _probabilities(record: Mapping[str, Any], classes: Classes, file: Path, number: int) -> list[float]:
    values = []
    for name in classes.names:
        try:
            value = float(record[name])
        except (TypeError, ValueError):
            raise DataError(f"{file} row {number}: '{record[name]}' for '{name}' is no probability") from None
        if not 0 <= value <= 1:  # also where it is no number at all
            raise DataError(f"{file} row {number}: {value:g} for '{name}' is no probability; give numbers from 0 to 1")
        values.append(value)
    total = sum(values)
    if abs(total - 1) > ROUNDING:
        raise DataError(
            f"{file} row {number}: the probabilities add up to {total:.3g}, not to 1; give those after the softmax"
        )
    return values

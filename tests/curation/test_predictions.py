"""Predictions of somebody's own model are read rightly, or refused in one sentence."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from curation.errors import DataError
from curation.predictions import read_predictions
from curation.records import Classes

CLASSES = Classes(("c1", "c2"), ("cat", "dog"))
PATHS = {"s1": ("a.png",), "s2": ("b.png", "copy of b.png"), "s3": ("c.png",)}


def write(folder: Path, text: str) -> Path:
    file = folder / "mine.csv"
    file.write_text(text, encoding="utf-8")
    return file


def test_columns_are_found_by_name_and_rows_by_path(tmp_path: Path) -> None:
    text = "dog,path,fold,cat\n0.9,copy of b.png,1,0.1\n0.25,a.png,2,0.75\n0.5,elsewhere.png,1,0.5\n"
    found = read_predictions(write(tmp_path, text), CLASSES, PATHS)
    assert found.sample_ids == ("s1", "s2")
    assert found.class_ids == CLASSES.ids
    assert np.allclose(found.probabilities, [[0.75, 0.25], [0.1, 0.9]])
    assert found.folds.tolist() == [-1, -1]


def test_parquet_serves_and_rounded_rows_are_scaled(tmp_path: Path) -> None:
    table = pd.DataFrame({"path": ["c.png"], "cat": [0.33], "dog": [0.66]})
    table.to_parquet(tmp_path / "mine.parquet")
    found = read_predictions(tmp_path / "mine.parquet", CLASSES, PATHS)
    assert found.probabilities.sum() == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("path,cat\na.png,1\n", "no column 'dog'"),
        ("file,cat,dog\na.png,1,0\n", "no column 'path'"),
        ("path,cat,dog\na.png,2.5,-1.5\n", "row 2: 2.5 for 'cat' is no probability"),
        ("path,cat,dog\na.png,nan,0\n", "row 2: nan for 'cat' is no probability"),
        ("path,cat,dog\na.png,much,0\n", "row 2: 'much' for 'cat' is no probability"),
        ("path,cat,dog\na.png,0.9,0.9\n", r"row 2: the probabilities add up to 1\.8"),
        ("path,cat,dog\na.png,1,0\na.png,0,1\n", "row 3: 'a.png' has a row already"),
        ("path,cat,dog\n/home/me/a.png,1,0\n", "for instance 'a.png', not '/home/me/a.png'"),
        ("path,cat,dog\n", "no path of it is a labeled image"),
    ],
)
def test_what_can_not_be_used_is_refused_in_one_sentence(tmp_path: Path, text: str, complaint: str) -> None:
    with pytest.raises(DataError, match=complaint) as refused:
        read_predictions(write(tmp_path, text), CLASSES, PATHS)
    assert "mine.csv" in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nothing\.csv does not exist"):
        read_predictions(tmp_path / "nothing.csv", CLASSES, PATHS)
